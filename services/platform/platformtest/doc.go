// Package platformtest gives tests the real things: a PostgreSQL server for
// each test binary with a database of its own for each test, and a NATS server
// with JetStream.
//
// A test binary that uses PostgreSQL says so in its TestMain:
//
//	func TestMain(m *testing.M) { platformtest.Main(m) }
//
// The server is started by the first test that asks and stopped by Main. A
// database is cloned from a template in which the migrations have run, which
// takes a tenth of a second; packages whose tests need many have one that is emptied.
package platformtest
