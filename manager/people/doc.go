// Package people binds what operating systems know of a person to a principal: a
// random id that stands for them everywhere else.
//
// A person is recognised by what names them most surely: security identifier,
// then user principal name, then domain and user, then the bare user name. None of
// these is stored: only a hash under a key that never leaves this Manager. Each
// principal has a random key of its own, under which the person's name and the
// names of their documents are sealed; the key is handed to the platform outside
// the log, so that destroying it makes the names unreadable for ever.
//
// Whatever is told to others was synced to the package's one file before.
package people
