// Package arrivals lets many agents that come at once be served one after the other.
//
// A handshake costs more than anything else that an agent asks for. Where thousands come at the same
// moment, as after a restart, and all handshakes go on at once, each takes as long as all together; past
// what callers wait for, everybody gives up, comes back, and the work was for nothing. So only few go on at
// once, those who came first go first, and who has waited for too long is sent away before anything was done
// for it.
//
// It touches nothing but the connections that it is given.
package arrivals
