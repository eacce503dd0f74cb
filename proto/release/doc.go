// Package release says what a release of the agent, or of a plug-in, is, and who may make
// one: its manifest, the signature over that, and the one file that a vendor hands out. The
// tool that signs, the Manager that keeps releases and the agent that runs them share it.
//
// A release file is one line of JSON (manifest, key id, Ed25519 signature) and behind it the
// program. The signature covers the manifest, which has the program's size and SHA-256; it
// stands under a prefix of its own, so that it can mean nothing else.
//
// Numbers protect against going back: each release of a name has a greater one than those
// before, whatever its version is called, and an agent takes only a greater one than it
// runs and than it ever refused.
//
// The package reads and writes streams that it is given; it opens no file and no network.
package release
