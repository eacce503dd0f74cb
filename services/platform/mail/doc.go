// Package mail tells people by SMTP what they must know: a link to a new password, that
// somebody signed in, that maintenance is near.
//
// What a mail says is one of the types of content.go, each with a template of text and one
// of HTML beside it in templates/; a caller fills in facts and writes no words. A mail's id
// is that of the event it tells of, and its Message-ID follows from it: a mail that is sent
// twice, since nobody knew whether it had arrived, is the same mail to whoever receives it.
//
// Nothing that a caller fills in can add a header, a recipient or a line: texts become one
// line of bounded length before they reach a template, addresses are parsed, and links lead
// below the configured public URL only. The mail loads no picture and follows nobody.
//
// A server's words of refusal often name the recipient, so errors carry its codes and not
// its words. The error is [ErrRefused] where this mail is refused for good; anything else
// is worth another attempt.
//
// Unfinished: all mails are in English, and times in them are UTC.
//
// It may touch the network and nothing else; it knows no events. Package inbox is a mail
// server that delivers to nobody, for tests and for `make run`.
package mail
