// Package tlsfiles is who a part of the platform is to others on the network, kept in a folder of
// three files in PEM: tls.crt (the certificate, then those between it and the authority), tls.key
// and ca.crt (the authorities by which others are known). That is a Kubernetes Secret of type
// kubernetes.io/tls with ca.crt, as cert-manager makes and renews them.
//
//	files.go      the folder, read again when it changes, and the settings of TLS made of it
//	authority.go  an authority of the platform's own, for where nobody else supplies certificates
//
// What is renewed is used from the next connection on, without a restart. Files that cannot be used
// are told in the log, and the former stay.
//
// It may touch the file system and nothing else: who speaks which protocol over TLS is others' business.
package tlsfiles
