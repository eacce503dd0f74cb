// Package bench measures speed and cost, each against a limit measured in the
// same run on the same machine: the least that any implementation would have to
// do. So a ratio compares between machines, and an absolute figure does not.
//
// One bench runs at a time. What is measured runs as its own process where the
// figure is of a process (Manager, agent, the whole platform), and so does the
// load generator; the projection and the queries run in this process on a private
// PostgreSQL and NATS server, so that a profile can be taken of them.
//
// It may import anything of the project, and write below its own temporary
// directory only.
package bench
