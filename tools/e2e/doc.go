// Package e2e proves the main job on real desktops: programs are opened, used
// and closed by a script, and what the API then reports is compared with what the
// script did. The desktops are an X server; two of two people beside a Wayland
// compositor of a third, at one machine; and Windows programs under Wine.
//
// The truth is computed here from the script alone, and shares no code with the
// agent: of one desktop as totals, by interval algebra (truth.go), of several moment by
// moment (timeline.go). A script notes when it began to do something and when that was
// done. What lies between, and a second round it, is not judged; where the machine itself
// is late, which is measured, somewhat more. So a slow machine leaves less to be judged,
// and fails nothing.
//
// The package may start any binary of the project, and talks to them as a stranger would:
// by command line, REST and files.
package e2e
