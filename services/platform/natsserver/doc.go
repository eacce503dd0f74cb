// Package natsserver runs a NATS server with JetStream inside this process: alone, for
// the all-in-one and for tests, or as one of a cluster. It also
// knows what every deployment needs from NATS, embedded or not: the streams of
// the log with their settings, and what each role may publish and read.
//
//	roles.go       who does what: the table of the platform's parts
//	accounts.go    a NATS account for each of them and one for Managers, and what is between them
//	judge.go       answers, in the platform's account, what nobody may ask JetStream directly
//	consumers.go   judges the consumers that parts wish for
//	copies.go      gives streams away whole, and puts them back
//	backlog.go     is between them and a store that is slower than JetStream waits
//	users.go       who connects
//	streams.go     the streams of the log
//	streaminfo.go  answers about streams and their last messages
//	cluster.go     which servers a server replicates with, and whose files are whose
//	testcluster.go three servers in one process, for contract suites
//
// It may touch nats-server and nats.go, one directory on disk, and the addresses that it
// is told; only loopback without TLS. It knows nothing of events.
package natsserver
