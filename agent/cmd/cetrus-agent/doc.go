// Command cetrus-agent watches this machine's desktop and tells a Manager who
// uses which of the monitored applications, and when.
//
// Settings come from flags, then from the environment (CETRUS_AGENT_ and the
// flag's name in capitals), then from a YAML file whose keys are the flags' names.
package main
