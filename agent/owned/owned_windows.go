package owned

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"unsafe"

	"golang.org/x/sys/windows"
)

// Access lists of folders that are made here: nobody but the system and administrators,
// and the same with reading and running by everybody who may log on.
const (
	shut     = "D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)"
	runnable = shut + "(A;OICI;0x1200a9;;;BU)"
)

// Check tells whether a file or a folder, which is there, is the machine's.
func Check(path string) error {
	chain, self, err := chainOf(path)
	if err != nil {
		return err
	}
	return judge(chain, self)
}

// Folder makes a folder the machine's: it is made where it is missing, and shut for
// everybody but the system and administrators. One that others may have written into
// before is refused.
func Folder(path string) error { return folder(path, shut) }

// Programs is Folder for programs that people run: they may read and run what is in it.
func Programs(path string) error { return folder(path, runnable) }

func folder(path, access string) error {
	full, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("owned: %w", err)
	}
	descriptor, err := windows.SecurityDescriptorFromString(access)
	if err != nil {
		return fmt.Errorf("owned: %w", err)
	}
	for _, part := range parts(full)[1:] {
		if err := makeFolder(part, descriptor); err != nil {
			return err
		}
	}
	chain, self, err := chainOf(full)
	if err != nil {
		return err
	}
	last := chain[len(chain)-1]
	if err := judge(append(chain[:len(chain)-1:len(chain)-1], entry{path: last.path, link: last.link, owner: last.owner}), self); err != nil {
		return err
	}
	acl, _, err := descriptor.DACL()
	if err != nil {
		return fmt.Errorf("owned: %w", err)
	}
	err = windows.SetNamedSecurityInfo(full, windows.SE_FILE_OBJECT,
		windows.DACL_SECURITY_INFORMATION|windows.PROTECTED_DACL_SECURITY_INFORMATION, nil, nil, acl, nil)
	if err != nil {
		return fmt.Errorf("owned: shut the folder %s: %w", full, err)
	}
	why := last.openTo(self, changes)
	if why == "" {
		return nil
	}
	// It is shut now, so what is in it can be looked at.
	if empty, err := isEmpty(full); err != nil || !empty {
		return errors.Join(&OpenError{Path: full, Why: "until now " + why + ", and there is something in it"}, err)
	}
	return nil
}

// parts are the folders that lead to a path, from the top, with the path itself.
func parts(full string) (list []string) {
	for dir := full; ; dir = filepath.Dir(dir) {
		list = append(list, dir)
		if filepath.Dir(dir) == dir {
			break
		}
	}
	slices.Reverse(list)
	return list
}

// makeFolder makes a folder that is shut from its first moment.
func makeFolder(path string, descriptor *windows.SECURITY_DESCRIPTOR) error {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return fmt.Errorf("owned: %w", err)
	}
	attributes := &windows.SecurityAttributes{SecurityDescriptor: descriptor}
	attributes.Length = uint32(unsafe.Sizeof(*attributes))
	err = windows.CreateDirectory(name, attributes)
	if err == nil || errors.Is(err, windows.ERROR_ALREADY_EXISTS) {
		return nil
	}
	if about, statErr := os.Stat(path); statErr == nil && about.IsDir() {
		return nil // such as a share, in which nothing may be made
	}
	return fmt.Errorf("owned: make the folder %s: %w", path, err)
}

func isEmpty(dir string) (bool, error) {
	f, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// chainOf describes what is at a path and the folders above it.
func chainOf(path string) (chain []entry, self string, err error) {
	full, err := filepath.Abs(path)
	if err != nil {
		return nil, "", fmt.Errorf("owned: %w", err)
	}
	for _, part := range parts(full) {
		e, err := describe(part)
		if err != nil {
			return nil, "", fmt.Errorf("owned: who may write %s: %w", part, err)
		}
		chain = append(chain, e)
	}
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return nil, "", fmt.Errorf("owned: the user of this process: %w", err)
	}
	return chain, user.User.Sid.String(), nil
}

// describe reads owner and access list of the thing itself, not of what it leads to.
func describe(path string) (entry, error) {
	e := entry{path: path}
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return e, err
	}
	const share = windows.FILE_SHARE_READ | windows.FILE_SHARE_WRITE | windows.FILE_SHARE_DELETE
	handle, err := windows.CreateFile(name, windows.READ_CONTROL|windows.FILE_READ_ATTRIBUTES, share, nil, windows.OPEN_EXISTING,
		windows.FILE_FLAG_BACKUP_SEMANTICS|windows.FILE_FLAG_OPEN_REPARSE_POINT, 0)
	if err != nil {
		return e, err
	}
	defer func() { _ = windows.CloseHandle(handle) }()
	var about windows.ByHandleFileInformation
	if err := windows.GetFileInformationByHandle(handle, &about); err != nil {
		return e, err
	}
	e.link = about.FileAttributes&windows.FILE_ATTRIBUTE_REPARSE_POINT != 0
	descriptor, err := windows.GetSecurityInfo(handle, windows.SE_FILE_OBJECT, windows.OWNER_SECURITY_INFORMATION|windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		return e, err
	}
	owner, _, err := descriptor.Owner()
	if err != nil {
		return e, err
	}
	if owner != nil {
		e.owner = owner.String()
	}
	acl, _, err := descriptor.DACL()
	if errors.Is(err, windows.ERROR_OBJECT_NOT_FOUND) || err == nil && acl == nil {
		e.open = true
		return e, nil
	}
	if err != nil {
		return e, err
	}
	for i := range uint32(acl.AceCount) {
		var ace *windows.ACCESS_ALLOWED_ACE
		if err := windows.GetAce(acl, i, &ace); err != nil {
			return e, err
		}
		g := grant{kind: ace.Header.AceType, flags: ace.Header.AceFlags, rights: uint32(ace.Mask)}
		if g.kind == kindAllow || g.kind == kindDeny {
			g.sid = (*windows.SID)(unsafe.Pointer(&ace.SidStart)).String()
		}
		e.grants = append(e.grants, g)
	}
	return e, nil
}
