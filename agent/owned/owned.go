package owned

import (
	"fmt"
	"slices"
)

// Who may write what is the machine's.
const (
	system           = "S-1-5-18"
	administrators   = "S-1-5-32-544"
	trustedInstaller = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"
	// ownerRights stands for whoever owns the thing, who is looked at anyway.
	ownerRights = "S-1-3-4"
)

// Rights of access lists.
const (
	writeData       = 0x2 // of a folder: add a file
	appendData      = 0x4 // of a folder: add a folder
	writeExtended   = 0x10
	deleteChild     = 0x40
	writeAttributes = 0x100 // enough to turn an empty folder into a link
	deleteThis      = 0x1_0000
	writeAccess     = 0x4_0000
	writeOwner      = 0x8_0000
	genericAll      = 0x1000_0000
	genericWrite    = 0x4000_0000

	// replaces are the rights by which what lies in a folder can be replaced by something
	// else. To add to it is none of them, and neither is what works on empty folders only.
	replaces = deleteChild | deleteThis | writeAccess | writeOwner | genericAll
	// changes are the rights by which the thing itself can be changed.
	changes = replaces | writeData | appendData | writeExtended | writeAttributes | genericWrite
)

// Kinds and flags of grants in access lists.
const (
	kindAllow   = 0
	kindDeny    = 1
	inheritOnly = 0x8
)

// grant is an entry of an access list.
type grant struct {
	kind, flags byte
	rights      uint32
	sid         string // empty where the kind is one that this package cannot read
}

// entry is a file or a folder as the system describes it.
type entry struct {
	path string
	// link: it leads elsewhere (a reparse point).
	link  bool
	owner string
	// open: it has no access list, so everybody may do anything.
	open   bool
	grants []grant
}

// OpenError says who else could have written what should be the machine's.
type OpenError struct {
	Path string
	Why  string
}

func (e *OpenError) Error() string {
	return fmt.Sprintf("%s is not the machine's alone: %s; use one that only SYSTEM and administrators may write, such as a folder below %%ProgramFiles%%", e.Path, e.Why)
}

// judge looks at a file or folder, which comes last, and at the folders above it. self is
// whom this process runs as.
func judge(chain []entry, self string) error {
	for i, e := range chain {
		rights := uint32(replaces)
		if i == len(chain)-1 {
			rights = changes
		}
		if why := e.openTo(self, rights); why != "" {
			return &OpenError{Path: e.path, Why: why}
		}
	}
	return nil
}

// openTo tells who else has any of the rights; empty: nobody.
func (e entry) openTo(self string, rights uint32) string {
	trusted := []string{system, administrators, trustedInstaller, self}
	switch {
	case e.link:
		return "it leads elsewhere; name what it leads to"
	case !slices.Contains(trusted, e.owner):
		return fmt.Sprintf("it is owned by %s", e.owner)
	case e.open:
		return "it has no access list"
	}
	trusted = append(trusted, ownerRights)
	for _, g := range e.grants {
		if g.kind == kindDeny || g.flags&inheritOnly != 0 || g.rights&rights == 0 {
			continue // that a denial may come first is not relied on
		}
		switch {
		case g.kind != kindAllow || g.sid == "":
			return fmt.Sprintf("its access list has an entry of kind %d, which cannot be judged", g.kind)
		case !slices.Contains(trusted, g.sid):
			return fmt.Sprintf("%s may change it (rights %#x)", g.sid, g.rights&rights)
		}
	}
	return ""
}
