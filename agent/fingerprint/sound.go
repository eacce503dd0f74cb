package fingerprint

import "strings"

// sound leaves out what tells nothing: values that many machines share, since whoever
// made them filled nothing in.
func (t Traits) sound() Traits {
	sound := make(Traits)
	for name, values := range t {
		for _, v := range values {
			if v = strings.ToLower(strings.TrimSpace(v)); v != "" && !filler(v) {
				sound[name] = append(sound[name], v)
			}
		}
	}
	return sound
}

// sharedUUID is what several makers of mainboards ship.
const sharedUUID = "03000200-0400-0500-0006-000700080009"

func filler(v string) bool {
	if v == sharedUUID || v == "localhost" || strings.Contains(v, "o.e.m.") || strings.HasPrefix(v, "default string") || strings.HasPrefix(v, "not ") {
		return true
	}
	digits := strings.NewReplacer("-", "", ":", "", ".", "", " ", "").Replace(v)
	return strings.Trim(digits, "0") == "" || strings.Trim(digits, "f") == ""
}
