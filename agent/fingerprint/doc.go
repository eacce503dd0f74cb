// Package fingerprint tells whether an agent's folder still lies on the machine that it
// began on, or on a copy of its disk.
//
// Read collects traits of the machine: a few that are independent of each other and
// differ on a clone, since no single one is to be had everywhere or lasts for ever. Nothing
// that it reads is kept or sent: a Print holds keyed hashes under a random key, which lies
// beside it, so it is worth nothing to anybody but this folder.
//
// Compare decides by majority. A trait of the hardware speaks for the same machine where it
// is the same, and for another where it differs. One that is copied with the disk (the
// installation's id, the volume's serial, the host's name) says nothing where it is the
// same. Only two that differ make another machine, so that a new network card, a larger
// disk or another name makes none; a new mainboard with its network does. A hypervisor's
// generation, which counts restored snapshots, tells a machine that was put back.
//
// It may read the system's own description of itself, and writes nothing.
//
// # What it cannot see
//
//   - Without the rights of root, Linux tells neither the machine's UUID nor some disks'
//     serials; a container has no hardware of its own. Two copies of which it is silent are
//     told apart by the Manager, once both are connected.
//   - Linux does not tell programs a hypervisor's generation: a restored snapshot is found
//     out by the hash chain there.
package fingerprint
