package contract

import usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"

// Tags of what a SealedName names, in its associated data.
const (
	sealedPerson   = 'p'
	sealedDocument = 'd'
)

// SealedNameData is the associated data under which a SealedName is sealed:
// the principal's id, then "p" for the person or "d" and the document's id.
// Both ends compute it from the message's other fields, so a name opens only
// for the principal and the subject that it was sealed for.
func SealedNameData(name *usagev1.SealedName) []byte {
	data := make([]byte, 0, 16+1+16)
	data = append(data, name.GetPrincipalId()...)
	if document, ok := name.GetSubject().(*usagev1.SealedName_DocumentId); ok {
		return append(append(data, sealedDocument), document.DocumentId...)
	}
	return append(data, sealedPerson)
}
