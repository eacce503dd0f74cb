// Package natsfilestest makes the disk under a NATS server's files fail, for the tests of whoever starts one.
//
// It may touch the folder that it is given, and nothing else.
package natsfilestest
