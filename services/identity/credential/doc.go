// Package credential knows what people prove themselves with: passwords and which of
// them are too weak, one-time codes of an authenticator program, recovery codes, and
// random secrets for links and tokens. What of them is kept is a hash, or the caller's
// to seal.
//
// It is pure: it keeps nothing, asks nobody, and is told the time. It imports no other
// package of Cetrus.
//
// common.bin holds the passwords that are guessed first, as hashes cut to five bytes,
// made by tools/cmd/cetrus-common-passwords from the frequency list of the npm package
// @zxcvbn-ts/language-common (MIT, Copyright 2012-2016 Dan Wheeler and Dropbox, Inc.,
// 2021 @zxcvbn-ts), which has some 49,000 of the most frequent of several breaches. Longer lists
// of breaches are not consulted: that would ask a stranger's service about each password.
package credential
