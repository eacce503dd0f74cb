package contract

import "testing"

func FuzzCheckAddress(f *testing.F) {
	for _, text := range []string{"manager.example.com:10041", "10.0.0.1:10041", "[::1]:1", "", "host", "host:", ":1", "host:0", "host:65536", "a b:1", "http://x:1", "u@h:1"} {
		f.Add(text)
	}
	good := map[string]bool{"manager.example.com:10041": true, "10.0.0.1:10041": true, "[::1]:1": true}
	bad := map[string]bool{"": true, "host": true, "host:": true, ":1": true, "host:0": true, "host:65536": true, "a b:1": true, "http://x:1": true, "u@h:1": true}
	f.Fuzz(func(t *testing.T, text string) {
		if err := CheckAddress(text); err != nil && good[text] || err == nil && bad[text] {
			t.Errorf("%q: %v", text, err)
		}
	})
}
