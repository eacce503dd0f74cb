// Package command is cetrusctl: what Cetrus's console offers, for people who live in a terminal and
// for scripts. It is a client of the public API like any other (package rest), and has no private
// door: who may do what is for the platform to say.
//
// Each command reads its arguments, asks, and writes to what Run was given; figures and texts for
// people go to the standard output, questions, progress and errors to the standard error, so that
// pipes carry data alone. Exit codes are those of docs/cetrusctl.md.
//
// Unfinished: signing in by passkey or by a company's identity provider, for which the API has no way
// back to a program on the person's machine; an API key made in the console stands in for both.
package command
