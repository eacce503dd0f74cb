// Package templates is a library of common programs: the rules that recognise each on
// Windows and Linux, and what the titles of its windows say of documents. An application
// can be made from one; agents get what it says in their policy and know nothing of the
// library, so that a title that a vendor changes is put right here, or by an
// administrator, without a new agent.
//
// The library is data/*.yaml, one file for each category. An entry says where the form
// of its titles is known from, and gives titles as examples with what must be read in
// them: a test reads them all by the very rules that agents use. Common parts of
// patterns, as the names that programs give in several languages to what was never
// saved, stand in data/parts.yaml and are named as {part}.
//
// # What it does not know
//
// Titles of Windows programs are taken from their vendors' documents, their source, or
// public tests, scripts and issues that quote them, and were not seen on Windows: where the
// entry says "as people quote them" (Inventor, Rhino, Illustrator, Premiere, WPS, Foxit, most of
// engineering, analysis and business, in part Edge, AutoCAD, BricsCAD, PowerPoint, Sublime Text,
// Photoshop) there is nothing firmer. Of Allplan and SAP GUI titles are not read at all. Of those on Linux some were seen, and say so. Which windows of Chrome and Chromium are Incognito is not told by titles. A
// program in a language that parts.yaml does not list is read as if its unsaved
// documents were files. Vendors change titles; rules that match nothing give no
// document, never a wrong one.
package templates
