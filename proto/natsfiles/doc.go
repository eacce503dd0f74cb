// Package natsfiles keeps what a NATS server has on disk from the server itself while it
// starts. A server (2.15) that cannot open a stream, since its disk fails or is full for a
// moment, removes all files of the stream. So each file is given a second name before the
// server starts, by which it is put back.
//
// What the server says of itself when it can write no more is told from its other words here, too.
//
// It is in this module because both the platform's server and the Manager's need it and
// neither may import the other.
//
// The package may touch the folder that it is given, and nothing else.
package natsfiles
