// Package follow feeds an [authn.Directory] from the log, so that what ends a credential is
// known in every process as soon as it is recorded, and nobody is asked when one is judged.
//
// It reads EVENTS, of the context identity: logins and API keys from the beginning, since
// a key lives for years; ended sessions of the last minutes, since no token of an older one
// is good by itself. It keeps nothing, and writes nothing to the log; beside it, by plain NATS, it
// tells identity when API keys were used.
//
// What cannot be read stops it, and with it the process: whoever does not know what was
// ended lets nobody in.
package follow
