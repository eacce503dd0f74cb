package fingerprint

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Trait is one of the things that tell machines apart.
type Trait string

// Traits of the hardware, real or virtual.
const (
	// System is the machine's UUID, as its firmware or hypervisor tells it.
	System Trait = "system"
	// Instance is the name that a cloud gave to the machine.
	Instance Trait = "instance"
	// Network are the burned-in addresses of built-in network cards.
	Network Trait = "network"
	// Disks are the serial numbers of built-in disks.
	Disks Trait = "disks"
)

// Traits that a copy of the disk takes along.
const (
	Installation Trait = "installation"
	Volume       Trait = "volume"
	Name         Trait = "name"
)

// Generation changes when a virtual machine is cloned or put back to a snapshot.
const Generation Trait = "generation"

// Traits are what was read of a machine. A trait of several values is the same as long as
// it shares one of them. What could not be read is not there.
type Traits map[Trait][]string

// keyBytes is the length of the key under which values are hashed.
const keyBytes = 32

// Print is what is kept of a machine.
type Print struct {
	// Key is random and never leaves the folder.
	Key []byte `json:"key"`
	// Traits are keyed hashes of the values, sorted.
	Traits map[Trait][]string `json:"traits"`
}

// Check tells what is wrong with a Print that was read.
func (p *Print) Check() error {
	if len(p.Key) != keyBytes {
		return fmt.Errorf("fingerprint: the key has %d bytes, not %d", len(p.Key), keyBytes)
	}
	return nil
}

// New takes a Print under a key that it draws.
func New(random io.Reader, t Traits) (Print, error) {
	key := make([]byte, keyBytes)
	if _, err := io.ReadFull(random, key); err != nil {
		return Print{}, fmt.Errorf("fingerprint: draw a key: %w", err)
	}
	return take(key, t), nil
}

func take(key []byte, t Traits) Print {
	p := Print{Key: key, Traits: make(map[Trait][]string)}
	for name, values := range t {
		var hashes []string
		for _, v := range values {
			if v = strings.ToLower(strings.TrimSpace(v)); v == "" {
				continue
			}
			mac := hmac.New(sha256.New, key)
			mac.Write([]byte(string(name) + "\x00" + v))
			hashes = append(hashes, hex.EncodeToString(mac.Sum(nil)[:16]))
		}
		if slices.Sort(hashes); len(hashes) > 0 {
			p.Traits[name] = slices.Compact(hashes)
		}
	}
	return p
}

// Verdict is what a comparison comes to.
type Verdict int

// Verdicts.
const (
	// Same is the machine that the folder began on, as far as can be told.
	Same Verdict = iota
	// Restored is the same machine, put back to an earlier state.
	Restored
	// Other is another machine.
	Other
)

func (v Verdict) String() string { return [...]string{"same", "restored", "other"}[v] }

// leastDifferent is how many traits must differ before there is talk of another machine:
// any one of them can change by itself.
const leastDifferent = 2

// Compare compares what was kept with the machine as it is. now is what is to be kept from
// then on where it is the same machine: machines change piece by piece, and each piece is
// compared with what it was at the last start.
func Compare(kept Print, t Traits) (v Verdict, now Print) {
	now = take(kept.Key, t)
	same, different := 0, 0
	for name, before := range kept.Traits {
		after, read := now.Traits[name]
		if !read {
			now.Traits[name] = before // not to be read today is no change
			continue
		}
		switch shared := slices.ContainsFunc(after, func(h string) bool { return slices.Contains(before, h) }); {
		case !shared:
			different++
		case name == System || name == Instance || name == Network || name == Disks:
			same++
		}
	}
	restored := differs(kept, now, Generation)
	switch {
	case different >= leastDifferent && different > same:
		return Other, now
	case restored:
		return Restored, now
	}
	return Same, now
}

func differs(a, b Print, name Trait) bool {
	return len(a.Traits[name]) > 0 && !slices.Equal(a.Traits[name], b.Traits[name])
}

// Equal tells whether two Prints are the same, and so need not be written again.
func Equal(a, b Print) bool {
	if string(a.Key) != string(b.Key) || len(a.Traits) != len(b.Traits) {
		return false
	}
	for name, values := range a.Traits {
		if !slices.Equal(values, b.Traits[name]) {
			return false
		}
	}
	return true
}
