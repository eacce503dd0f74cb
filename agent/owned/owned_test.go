package owned

import (
	"errors"
	"strings"
	"testing"
)

// Sids and rights as icacls shows them on Windows 11.
const (
	users              = "S-1-5-32-545"
	authenticatedUsers = "S-1-5-11"
	creatorOwner       = "S-1-3-0"
	appPackages        = "S-1-15-2-1"
	ann                = "S-1-5-21-1-2-3-1001"

	full    = 0x1f_01ff
	modify  = 0x13_01bf
	reading = 0x12_00a9 // (RX)
	// adding is what %ProgramData% lets users do in it: (WD,AD,WEA,WA).
	adding = writeData | appendData | writeExtended | writeAttributes

	inherit = 0x3
)

func allow(sid string, rights uint32, flags ...byte) grant {
	g := grant{kind: kindAllow, rights: rights, sid: sid}
	for _, f := range flags {
		g.flags |= f
	}
	return g
}

// Folders of a machine as it is installed.
func drive() entry {
	return entry{path: `C:\`, owner: trustedInstaller, grants: []grant{
		allow(authenticatedUsers, modify, inherit, inheritOnly), allow(authenticatedUsers, appendData),
		allow(system, full, inherit), allow(administrators, full, inherit), allow(users, reading, inherit),
	}}
}

func programFiles() entry {
	return entry{path: `C:\Program Files`, owner: trustedInstaller, grants: []grant{
		allow(trustedInstaller, full), allow(system, modify), allow(system, genericAll, inherit, inheritOnly), allow(administrators, modify),
		allow(users, reading), allow(creatorOwner, genericAll, inherit, inheritOnly), allow(appPackages, reading),
	}}
}

func programData() entry {
	return entry{path: `C:\ProgramData`, owner: system, grants: []grant{
		allow(system, full, inherit), allow(administrators, full, inherit), allow(creatorOwner, genericAll, inherit, inheritOnly),
		allow(users, reading, inherit), allow(users, adding, 0x2),
	}}
}

// below is a folder or file that an owner has made, with what it inherits.
func below(parent entry, name, owner string) entry {
	e := entry{path: parent.path + `\` + name, owner: owner}
	for _, g := range parent.grants {
		if g.flags&inherit == 0 {
			continue
		}
		g.flags &^= inheritOnly
		if g.sid == creatorOwner {
			g.sid = owner
		}
		e.grants = append(e.grants, g)
	}
	return e
}

func TestWhatIsTheMachines(t *testing.T) {
	t.Parallel()
	cetrus := below(programFiles(), "Cetrus", administrators)
	shutFolder := func(owner string) entry {
		return entry{path: `C:\ProgramData\Cetrus`, owner: owner, grants: []grant{allow(system, full, inherit), allow(administrators, full, inherit)}}
	}
	with := func(e entry, grants ...grant) entry {
		e.grants = append(e.grants[:len(e.grants):len(e.grants)], grants...)
		return e
	}
	for _, c := range []struct {
		name  string
		self  string
		chain []entry
		why   string // empty: it is the machine's
	}{
		{"below Program Files", system, []entry{drive(), programFiles(), cetrus, below(cetrus, "agent.yaml", system)}, ""},
		{"a shut folder in ProgramData", system, []entry{drive(), programData(), shutFolder(system)}, ""},
		{"in a folder of ProgramData that an older agent made", system, []entry{drive(), programData(), below(programData(), "Cetrus", system), shutFolder(administrators)}, ""},
		{"a file of administrators in ProgramData", system, []entry{drive(), programData(), below(programData(), "Cetrus", administrators)}, users + " may change it"},
		{"made by somebody in ProgramData", system, []entry{drive(), programData(), below(programData(), "Cetrus", ann)}, "owned by " + ann},
		{"shut, but somebody's", system, []entry{drive(), programData(), shutFolder(ann)}, "owned by " + ann},
		{"a shut one in somebody's", system, []entry{drive(), programData(), below(programData(), "Cetrus", ann), shutFolder(system)}, `Cetrus is not the machine's alone: it is owned by ` + ann},
		{"by an administrator on drive C:", system, []entry{drive(), below(drive(), "cetrus", administrators)}, authenticatedUsers + " may change it"},
		{"in such a folder", system, []entry{drive(), below(drive(), "cetrus", administrators), shutFolder(system)}, `cetrus is not`},
		{"without an access list", system, []entry{drive(), {path: `C:\x`, owner: system, open: true}}, "no access list"},
		{"a drive without access lists", system, []entry{{path: `E:\`, owner: system, open: true}, shutFolder(system)}, "no access list"},
		{"a link", system, []entry{drive(), {path: `C:\x`, owner: system, link: true}}, "leads elsewhere"},
		{"below a link", system, []entry{drive(), {path: `C:\x`, owner: system, link: true}, shutFolder(system)}, "leads elsewhere"},
		{"conditional access", system, []entry{drive(), with(shutFolder(system), grant{kind: 9, rights: full})}, "kind 9"},
		{"what is denied does no harm", system, []entry{drive(), with(shutFolder(system), grant{kind: kindDeny, rights: full, sid: users})}, ""},
		{"a denial helps nobody", system, []entry{drive(), with(shutFolder(system), grant{kind: kindDeny, rights: full, sid: users}, allow(users, modify))}, users},
		{"the owner's rights", system, []entry{drive(), with(shutFolder(system), allow(ownerRights, full))}, ""},
		{"for what will be made in it", system, []entry{drive(), with(shutFolder(system), allow(users, modify, inheritOnly))}, ""},
		{"one's own", ann, []entry{drive(), with(shutFolder(ann), allow(ann, full))}, ""},
	} {
		err := judge(c.chain, c.self)
		var open *OpenError
		switch {
		case c.why == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.why != "" && (!errors.As(err, &open) || !strings.Contains(err.Error(), c.why)):
			t.Errorf("%s: %v, not because %s", c.name, err, c.why)
		}
	}
}

// Each single right by which a thing, or what lies above it, is changed counts.
func TestRightsThatChangeSomething(t *testing.T) {
	t.Parallel()
	for bit := range 32 {
		right := uint32(1) << bit
		one := entry{path: "x", owner: system, grants: []grant{allow(users, right)}}
		plain := entry{path: "y", owner: system}
		if err := judge([]entry{one}, system); (err != nil) != (right&changes != 0) {
			t.Errorf("right %#x to the thing itself: %v", right, err)
		}
		if err := judge([]entry{one, plain}, system); (err != nil) != (right&replaces != 0) {
			t.Errorf("right %#x to a folder above: %v", right, err)
		}
	}
}
