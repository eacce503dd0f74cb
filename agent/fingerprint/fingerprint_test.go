package fingerprint

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// workstation has everything that a machine may tell.
func workstation() Traits {
	return Traits{
		System: {"4c4c4544-0042-3510"}, Network: {"a4:bb:6d:01:02:03", "a4:bb:6d:01:02:04"}, Disks: {"S4EWNX0R"},
		Installation: {"9f1c"}, Volume: {"c0ffee"}, Name: {"ws-01"},
	}
}

func with(t, changes Traits) Traits {
	t = maps.Clone(t)
	for name, values := range changes {
		if t[name] = values; values == nil {
			delete(t, name)
		}
	}
	return t
}

func TestDecides(t *testing.T) {
	t.Parallel()
	virtual := Traits{System: {"u1"}, Network: {"52:54:00:00:00:01"}, Installation: {"9f1c"}, Volume: {"c0ffee"}, Name: {"golden"}, Generation: {"g1"}}
	unprivileged := Traits{Network: {"52:54:00:00:00:01"}, Installation: {"9f1c"}, Name: {"golden"}}
	for name, c := range map[string]struct {
		before, after Traits
		want          Verdict
	}{
		"nothing changed":                     {workstation(), workstation(), Same},
		"another network card":                {workstation(), with(workstation(), Traits{Network: {"00:1b:21:00:00:01"}}), Same},
		"one more network card":               {workstation(), with(workstation(), Traits{Network: {"00:1b:21:00:00:01", "a4:bb:6d:01:02:03"}}), Same},
		"a larger disk, copied":               {workstation(), with(workstation(), Traits{Disks: {"NEW"}}), Same},
		"a larger disk, installed anew":       {workstation(), with(workstation(), Traits{Disks: {"NEW"}, Volume: {"beef"}}), Same},
		"another name and installation's id":  {workstation(), with(workstation(), Traits{Name: {"ws-77"}, Installation: {"77aa"}}), Same},
		"run without rights":                  {workstation(), with(workstation(), Traits{System: nil, Disks: nil}), Same},
		"nothing to be read at all":           {workstation(), Traits{}, Same},
		"nothing was read before":             {Traits{}, workstation(), Same},
		"mainboard with its network replaced": {workstation(), with(workstation(), Traits{System: {"other"}, Network: {"00:1b:21:00:00:01"}}), Other},
		"disk copied into another machine":    {workstation(), with(workstation(), Traits{System: {"other"}, Network: {"00:1b:21:00:00:01"}, Disks: {"OTHER"}}), Other},
		"disk moved into another machine":     {workstation(), with(workstation(), Traits{System: {"other"}, Network: {"00:1b:21:00:00:01"}}), Other},
		"virtual machine cloned":              {virtual, with(virtual, Traits{System: {"u2"}, Network: {"52:54:00:00:00:02"}, Generation: {"g2"}}), Other},
		"cloned, and named anew":              {virtual, with(virtual, Traits{System: {"u2"}, Network: {"52:54:00:00:00:02"}, Generation: {"g2"}, Name: {"vdi-7"}}), Other},
		"virtual machine put back":            {virtual, with(virtual, Traits{Generation: {"g2"}}), Restored},
		"put back with another network card":  {virtual, with(virtual, Traits{Generation: {"g2"}, Network: {"52:54:00:00:00:02"}}), Other},
		"put back, and there is more to see":  {with(virtual, Traits{Disks: {"d"}}), with(virtual, Traits{Disks: {"d"}, Generation: {"g2"}, Network: {"52:54:00:00:00:02"}}), Restored},
		"clone without rights, named anew":    {unprivileged, with(unprivileged, Traits{Network: {"52:54:00:00:00:02"}, Name: {"vdi-7"}}), Other},
		"clone without rights, not named yet": {unprivileged, with(unprivileged, Traits{Network: {"52:54:00:00:00:02"}}), Same},
		"cloud instance from an image":        {with(virtual, Traits{Instance: {"i-1"}}), with(virtual, Traits{Instance: {"i-2"}, System: {"u2"}, Network: nil, Generation: nil}), Other},
	} {
		kept, err := New(rand.Reader, c.before)
		if err != nil {
			t.Fatal(err)
		}
		if v, _ := Compare(kept, c.after); v != c.want {
			t.Errorf("%s: %v, want %v", name, v, c.want)
		}
	}
}

// A machine of which one piece after the other is replaced stays the same one.
func TestMachinesChangePieceByPiece(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := workstation()
		kept, err := New(rand.Reader, now)
		if err != nil {
			t.Fatal(err)
		}
		names := slices.Sorted(maps.Keys(now))
		for range rapid.IntRange(1, 20).Draw(t, "changes") {
			name := rapid.SampledFrom(names).Draw(t, "trait")
			now = with(now, Traits{name: {rapid.StringMatching(`[a-z0-9]{8}`).Draw(t, "value")}})
			var v Verdict
			if v, kept = Compare(kept, now); v != Same {
				t.Fatalf("%v after another %s", v, name)
			}
		}
		// All of it at once is another one, and the hashes tell nothing of the values.
		if v, _ := Compare(kept, Traits{System: {"x"}, Network: {"y"}, Disks: {"z"}}); v != Other {
			t.Fatalf("another machine is %v", v)
		}
		text, err := json.Marshal(kept)
		if err != nil {
			t.Fatal(err)
		}
		for _, values := range now {
			if bytes.Contains(text, []byte(values[0])) && len(values[0]) > 6 {
				t.Fatalf("%s is kept as it is: %s", values[0], text)
			}
		}
	})
}

func TestPrintsUnderTwoKeysAreStrangers(t *testing.T) {
	t.Parallel()
	a, err := New(rand.Reader, workstation())
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(rand.Reader, workstation())
	if err != nil {
		t.Fatal(err)
	}
	for name := range a.Traits {
		if slices.Equal(a.Traits[name], b.Traits[name]) {
			t.Errorf("%s has the same hash under two keys", name)
		}
	}
}

func TestFillersAreNoTraits(t *testing.T) {
	t.Parallel()
	got := Traits{
		System: {"FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"}, Disks: {"0000000000", " To be filled by O.E.M."}, Network: {"00:00:00:00:00:00"},
		Installation: {"9F1C"}, Name: {"localhost"}, Volume: {""},
	}.sound()
	if len(got) != 1 || !slices.Equal(got[Installation], []string{"9f1c"}) {
		t.Errorf("what tells something is %v", got)
	}
}

func FuzzSMBIOS(f *testing.F) {
	table := append(make([]byte, 8), 0, 4, 0, 0, 'a', 0, 0) // BIOS information with one string
	table = append(table, 1, 27, 1, 0, 0, 0, 0, 0)
	table = append(table, 0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0, 0, 0, 0, 0)
	f.Add(table)
	f.Add([]byte{})
	f.Add(append(make([]byte, 8), 1, 255, 0))
	f.Fuzz(func(t *testing.T, table []byte) {
		if got := smbiosUUID(table); got != "" && len(strings.Split(got, "-")) != 5 {
			t.Errorf("the UUID is %q", got)
		}
	})
	if got := smbiosUUID(table); got != "00112233-4455-6677-8899-aabbccddeeff" {
		f.Errorf("the UUID is %q", got)
	}
}
