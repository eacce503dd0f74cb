// Package console is the web console: pages for people, made on the server, over the public API
// and nothing else. Whatever a page shows or does, a program could ask of the API with the same
// rights: the console owns no data, has no door of its own, and may be left out.
//
// Who signs in gets the API's own tokens, kept in cookies that no script reads; the console
// renews them and sends them with each call. So a page shows what the person behind it may see,
// judged where the data is. What they may not do is not offered, and refused all the same.
//
// They sign in by password and second factor, by a passkey alone, or by their account's identity
// provider (signin.go, singlesignon.go), and choose a password where mailed links lead (password.go).
// Who has switched to another account has the tokens of two sessions: the one that pages are asked for
// in, and the one that they signed in to (switching.go). Signing out ends both (ADR 050).
//
// What people change they send by a form to an action (form.go): it is done once however often it
// is sent, leads to a page that says what was done, or comes back with what was typed and what is
// wrong beside each field. One that is sent after its session has ended is kept, but for secrets, until its
// person has signed in again (typed.go).
//
// Numbers are written as the browser's languages ask for (locale.go), dates and times by the browser itself.
// What is wrong with what a report is asked is told once, by the labels of its form, which stays as it was filled
// (asked.go). A report may be compared with the time before, or the year before (compare.go).
//
// Pages work by plain links and forms; htmx replaces parts of them so that the rest stays where
// it was, and each state of a page has an address. The only scripts are files of this origin: the
// content security policy allows no other, no inline ones and no inline styles.
//
// Styles, icons and charts are Tabler and ECharts at pinned versions (tools/vendor.sh), committed
// under assets/vendor: nothing is built to run the console, and no other host is asked.
//
// It may use the contract and services/platform; it reads and writes no stream and owns no
// table. Long work, such as the file of a year, is the API's, and found again (files.go). What is not there yet:
// searching logins and people in the lists of the account reads the API's lists, as
// far as searchPages and principalPages reach. The export makes a page as far as its question, to have the very one.
package console
