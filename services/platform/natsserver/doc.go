// Package natsserver runs a NATS server with JetStream inside this process: for
// the all-in-one, and for tests, alone or as three that make a cluster. It also
// knows what every deployment needs from NATS, embedded or not: the streams of
// the log with their settings, and what each role may publish and read.
//
//	roles.go       who does what: the table of the platform's parts
//	accounts.go    a NATS account for each of them and one for Managers, and what is between them
//	consumers.go   judges the consumers that parts wish for
//	users.go       who connects
//	streams.go     the streams of the log
//	streaminfo.go  answers about streams to who may not ask JetStream
//
// It may touch nats-server and nats.go, one directory on disk, and loopback
// addresses. It knows nothing of events.
package natsserver
