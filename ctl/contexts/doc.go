// Package contexts keeps who a person is signed in as, and where: one file, readable by its owner
// alone, with a context for each server and account, and in it the tokens of the session. It is
// replaced as a whole, so that a crash leaves the old or the new one, and only by one process at a
// time: a refresh token is good once, and two programs that used the same would end the session.
package contexts
