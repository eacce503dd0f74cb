// Package natsserver runs a NATS server with JetStream inside this process: for
// the all-in-one, and for tests, alone or as three that make a cluster. It also
// knows what every deployment needs from NATS, embedded or not: the streams of
// the log with their settings, and what each role may publish and read.
//
// It may touch nats-server and nats.go, one directory on disk, and loopback
// addresses. It knows nothing of events.
package natsserver
