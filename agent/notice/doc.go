// Package notice writes what a person is told when an agent begins to record them: what
// is recorded, what never is, who sees it, and how to pause.
//
// It is pure: an account's policy goes in as Facts, a text comes out. The same text is in
// the window of the first run, behind "About" of the tray icon, and in what
// `cetrus-agent status` prints where there is no screen to show it on. It is English;
// what the account has to say in another language, or by law, is Facts.Account, which
// stands first.
//
// Version changes where the words change, or what is told of documents or of programs beside
// the list, or whether a pause is allowed: then people are shown it again. That another
// application is recorded does not change it, or nobody would read it any more; `status` lists
// them all.
package notice
