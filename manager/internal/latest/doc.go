// Package latest follows the last message of one subject of a stream of the platform. A Manager
// may make no consumer, and needs none: it wants the last word, not every one.
//
// The package reads and publishes on the connection that it is given, and nothing else.
package latest
