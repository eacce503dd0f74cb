package console

import (
	"mime"
	"net/http"
	"strconv"

	"github.com/cetrus/cetrus/services/platform/authn"
)

// download is a file that a page gives.
type download struct {
	name, contentType string
	content           []byte
}

// downloads are addresses that give files; they are asked for as pages are.
var downloads = []struct {
	path string
	may  func(authn.Privileges) bool
	give func(*Service, *visit) (download, error)
}{
	{"/audit-log/export", administers, (*Service).exportAudit},
	{"/my-data/export", anybody, (*Service).exportMyData},
}

// give answers with a file.
func (s *Service) give(may func(authn.Privileges) bool, file func(*Service, *visit) (download, error)) func(*visit) {
	return func(v *visit) {
		if err := admits(v, may, "this file is for others"); err != nil {
			s.fail(v, err)
			return
		}
		given, err := file(s, v)
		if err != nil {
			s.fail(v, err)
			return
		}
		h := v.w.Header()
		h.Set("Content-Type", given.contentType)
		h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": given.name}))
		h.Set("Content-Length", strconv.Itoa(len(given.content)))
		v.w.WriteHeader(http.StatusOK)
		_, _ = v.w.Write(given.content) // the browser is gone where this fails
	}
}
