// Package trial tries Cetrus as a customer runs it: on a real Kubernetes of one node (package cluster), from the
// images and charts that are released, with a Manager at a site of its own that reaches nothing but port 443 of the
// Ingress. It installs, uses, upgrades, breaks and removes the platform while agents go on recording, and after each
// of these compares what the API reports with what was recorded, (instance, attention) by (instance, attention), to
// the millisecond.
//
// What it does is a list of scenarios. One is a function that is given the trial: the cluster, the release and its
// API, the site and its Manager, and the truth. It does something to the platform and waits until that is ready
// again; the trial then has everybody hold still for a moment, and compares. A scenario that fails is told, and the
// others go on.
//
// It may import anything: it is a developer's tool and never shipped. It takes root, and leaves nothing on the machine.
package trial
