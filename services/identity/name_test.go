package identity

import "testing"

func TestNamesThatLookLikeAnothers(t *testing.T) {
	for name, fine := range map[string]bool{
		"acme": true, "acm\u0435": false, "\u0430dmin": false, "adm\u0456n": false, "\u039fbi": false,
		"Ελένη Helen": true, "Мария": true, "α-testers": true, "Łukasz": true, "山田 Taro": true, "\u03a9mega": false,
	} {
		if got := checkName(name, MaxLoginName); (got == "") != fine {
			t.Errorf("%q: %q", name, got)
		}
	}
}
