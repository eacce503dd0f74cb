// Package keyring keeps the keys under which the names of people and of their
// documents are sealed, outside the log, so that a person can be forgotten: who
// destroys the key has destroyed every name in every copy of the log.
//
// Managers deposit keys by request and answer (cetrus.keyring.v1); of principals that the
// platform itself knows, such as logins, it draws them itself. A key lies in
// PostgreSQL, behind its account's wall, wrapped by the key-encryption key, which
// lies in a file beside the database; neither opens a name without the other. In that file it
// stands in clear, or wrapped by a key-management service (the transit engine of Vault or OpenBao),
// which is then asked for it every few minutes: where the service is lost, names are unreadable after
// five, and so they are for whoever has copied file and database. Rotate puts another in its place
// while processes run.
// After Forget the bytes of the wrapped key remain in PostgreSQL's old pages and
// log until it has reused them, and in backups until those expire.
//
// Several processes may take deposits: a queue group hands each to one of them, and its row is written
// once. A process may open names for a minute more under a key that another has destroyed.
//
// Unfinished: the transit engine was tried against its documentation, not against a real one; where
// processes read copies of the file, somebody has to copy it before Rotate wraps anything by it.
//
// It may touch NATS, its own schema, the one file, and the key-management service. It imports no service.
package keyring
