// Package keyring keeps the keys under which the names of people and of their
// documents are sealed, outside the log, so that a person can be forgotten: who
// destroys the key has destroyed every name in every copy of the log.
//
// Managers deposit keys by request and answer (cetrus.keyring.v1); of principals that the
// platform itself knows, such as logins, it draws them itself. A key lies in
// PostgreSQL, behind its account's wall, wrapped by the key-encryption key, which
// lies in a file beside the database; neither opens a name without the other.
// After Forget the bytes of the wrapped key remain in PostgreSQL's old pages and
// log until it has reused them, and in backups until those expire.
//
// It may touch NATS, its own schema, and the one file. It imports no service.
package keyring
