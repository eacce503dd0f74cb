// Package enroll keeps what an agent proves by who it is: a key that it made itself and that
// never leaves its folder, and the certificate that its site's Manager signed for it.
//
// The first certificate is had for a token, from the settings or from a file that is removed
// once it was used, or by the certificate of the agent that this machine is a copy of. A token
// names the site's authority by its hash, so a stranger gets neither the token nor anything
// else. From then on the agent speaks TLS 1.3 to Managers of that site only, never in plain,
// whatever its settings say, and renews its certificate at half of its life. An authority that
// follows the site's is heard of from a Manager that has proved to be of the one before. Nothing
// here stops recording: what cannot be sent waits in the journal. A token that cannot be used is
// told; who has a certificate goes on with that.
//
// It may write the files that it names below in the agent's folder, and asks Managers over
// connections that others make.
package enroll
