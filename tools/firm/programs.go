package firm

import (
	"cmp"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
)

// Program is a program as a desktop shows it.
type Program struct {
	// Name is the application's name in Cetrus; for a program that is not metered, its own.
	Name string
	// Template is the template that its application is made from; empty: it has none, and
	// Executable claims it.
	Template string
	// Path is where it lies, Class its windows' class.
	Path, Class string
	// Title makes a window's title of a document's name; without %s it has no documents.
	Title string
	// File makes a document's name of a project and a number; empty: documents are none of
	// a project's, but of Pages.
	File  string
	Pages []string
	// Documents: the documents are metered too.
	Documents bool
	// Remote: it shows what runs on other machines.
	Remote bool
	// Heavy programs are worked in for long, and stay open.
	Heavy bool
}

const programFiles = "C:/Program Files/"

// Programs are all programs of the firm, by a short name: those that are metered, and those
// that are only seen.
func Programs() map[string]Program {
	intranet := []string{"Intranet", "Timesheet", "Building regulations", "Travel", "Canteen", "Supplier catalogue"}
	return map[string]Program{
		// Drawing and modelling.
		"autocad":      {Name: "AutoCAD", Template: "autocad", Path: programFiles + "Autodesk/AutoCAD 2026/acad.exe", Class: "AfxMDIFrame140u", Title: "Autodesk AutoCAD 2026 - [%s]", File: "%s-GA-%02d.dwg", Documents: true, Heavy: true},
		"revit":        {Name: "Autodesk Revit", Template: "revit", Path: programFiles + "Autodesk/Revit 2026/Revit.exe", Class: "Afx:Revit", Title: "Autodesk Revit 2026 - [%s - Floor Plan: Level 1]", File: "%s-M-%02d.rvt", Documents: true, Heavy: true},
		"tekla":        {Name: "Tekla Structures", Path: programFiles + "Tekla Structures/2025.0/bin/TeklaStructures.exe", Class: "Tekla", Title: "Tekla Structures - %s", File: "%s-STEEL-%02d", Documents: true, Heavy: true},
		"microstation": {Name: "MicroStation", Template: "microstation", Path: programFiles + "Bentley/MicroStation 2024/microstation.exe", Class: "Bentley", Title: "%s [3D - V8 DGN] - MicroStation 2024", File: "%s-C-%02d.dgn", Heavy: true},
		"inventor":     {Name: "Autodesk Inventor", Template: "inventor", Path: programFiles + "Autodesk/Inventor 2026/Inventor.exe", Class: "Inventor", Title: "Autodesk Inventor Professional 2026 - [%s]", File: "%s-P-%02d.iam", Heavy: true},
		"sketchup":     {Name: "SketchUp", Template: "sketchup", Path: programFiles + "SketchUp/SketchUp 2025/SketchUp.exe", Class: "SketchUp", Title: "%s - SketchUp Pro 2025", File: "%s-V-%02d.skp"},
		"rhino":        {Name: "Rhinoceros", Template: "rhino", Path: programFiles + "Rhino 8/System/Rhino.exe", Class: "Rhino", Title: "%s - Rhino 8", File: "%s-F-%02d.3dm", Heavy: true},
		"civil":        {Name: "OpenRoads Designer", Path: programFiles + "Bentley/OpenRoadsDesigner.exe", Class: "Bentley", Title: "%s - OpenRoads Designer", File: "%s-R-%02d.dgn", Heavy: true},
		"navisworks":   {Name: "Navisworks Manage", Path: programFiles + "Autodesk/Navisworks Manage 2026/Roamer.exe", Class: "Navisworks", Title: "Autodesk Navisworks Manage 2026"},
		"bluebeam":     {Name: "Bluebeam Revu", Path: programFiles + "Bluebeam Software/Revu/21/Revu.exe", Class: "Revu", Title: "Bluebeam Revu x64"},
		"dialux":       {Name: "DIALux evo", Path: programFiles + "DIAL GmbH/DIALux/DIALux.exe", Class: "DIALux", Title: "DIALux evo"},
		"freecad":      {Name: "FreeCAD", Template: "freecad", Path: "/usr/bin/freecad", Class: "FreeCAD", Title: "%s - FreeCAD 1.0.0", File: "%s-X-%02d"},

		// Analysis.
		"etabs":    {Name: "ETABS", Path: programFiles + "Computers and Structures/ETABS 22/ETABS.exe", Class: "ETABS", Title: "ETABS Ultimate", Heavy: true},
		"sap2000":  {Name: "SAP2000", Path: programFiles + "Computers and Structures/SAP2000 26/SAP2000.exe", Class: "SAP2000", Title: "SAP2000 Ultimate", Heavy: true},
		"sofistik": {Name: "SOFiSTiK", Path: programFiles + "SOFiSTiK/2025/ssd.exe", Class: "SSD", Title: "SOFiSTiK Structural Desktop", Heavy: true},
		"robot":    {Name: "Robot Structural Analysis", Path: programFiles + "Autodesk/Robot/2026/robot.exe", Class: "Robot", Title: "Robot Structural Analysis Professional", Heavy: true},
		"ansys":    {Name: "Ansys Mechanical", Path: programFiles + "ANSYS Inc/v252/aisol/AnsysWBU.exe", Class: "Ansys", Title: "Ansys Mechanical Enterprise", Heavy: true},
		"abaqus":   {Name: "Abaqus/CAE", Path: "/opt/abaqus/2025/bin/ABQcaeK", Class: "ABQcaeK", Title: "Abaqus/CAE 2025", Heavy: true},
		"matlab":   {Name: "MATLAB", Path: programFiles + "MATLAB/R2025b/bin/matlab.exe", Class: "SunAwtFrame", Title: "MATLAB R2025b", Heavy: true},
		"mathcad":  {Name: "Mathcad Prime", Path: programFiles + "PTC/Mathcad Prime 10/MathcadPrime.exe", Class: "Mathcad", Title: "PTC Mathcad Prime"},
		"hecras":   {Name: "HEC-RAS", Path: programFiles + "HEC/HEC-RAS/6.6/Ras.exe", Class: "HEC", Title: "HEC-RAS 6.6"},
		"idaice":   {Name: "IDA ICE", Path: programFiles + "IDA/ida-ice.exe", Class: "IDA", Title: "IDA Indoor Climate and Energy", Heavy: true},

		// Maps and pictures.
		"arcgis":      {Name: "ArcGIS Pro", Template: "arcgis-pro", Path: programFiles + "ArcGIS/Pro/bin/ArcGISPro.exe", Class: "ArcGIS", Title: "%s - Map - ArcGIS Pro", File: "%s-GIS-%02d", Heavy: true},
		"qgis":        {Name: "QGIS", Template: "qgis", Path: programFiles + "QGIS 3.40/bin/qgis-bin.exe", Class: "Qt5152QWindowIcon", Title: "%s — QGIS", File: "%s-GIS-%02d", Heavy: true},
		"photoshop":   {Name: "Adobe Photoshop", Template: "photoshop", Path: programFiles + "Adobe/Adobe Photoshop 2026/Photoshop.exe", Class: "Photoshop", Title: "Adobe Photoshop 2026"},
		"illustrator": {Name: "Adobe Illustrator", Template: "illustrator", Path: programFiles + "Adobe/Adobe Illustrator 2026/Illustrator.exe", Class: "illustrator", Title: "Adobe Illustrator 2026"},
		"indesign":    {Name: "Adobe InDesign", Path: programFiles + "Adobe/Adobe InDesign 2026/InDesign.exe", Class: "indesign", Title: "Adobe InDesign 2026"},
		"premiere":    {Name: "Adobe Premiere Pro", Template: "premiere-pro", Path: programFiles + "Adobe/Adobe Premiere Pro 2026/Adobe Premiere Pro.exe", Class: "Premiere Pro", Title: "Adobe Premiere Pro 2026", Heavy: true},
		"lumion":      {Name: "Lumion", Path: programFiles + "Lumion 2025/Lumion.exe", Class: "Lumion", Title: "Lumion Pro", Heavy: true},
		"blender":     {Name: "Blender", Template: "blender", Path: programFiles + "Blender Foundation/Blender 4.5/blender.exe", Class: "GHOST_WindowClass", Title: "%s - Blender 4.5", File: "%s-V-%02d.blend", Heavy: true},

		// The office.
		"word":       {Name: "Microsoft Word", Template: "microsoft-word", Path: programFiles + "Microsoft Office/root/Office16/WINWORD.EXE", Class: "OpusApp", Title: "%s - Word", File: "%s Report %02d.docx", Documents: true},
		"excel":      {Name: "Microsoft Excel", Template: "microsoft-excel", Path: programFiles + "Microsoft Office/root/Office16/EXCEL.EXE", Class: "XLMAIN", Title: "%s - Excel", File: "%s Quantities %02d.xlsx"},
		"powerpoint": {Name: "Microsoft PowerPoint", Template: "microsoft-powerpoint", Path: programFiles + "Microsoft Office/root/Office16/POWERPNT.EXE", Class: "PPTFrameClass", Title: "%s - PowerPoint", File: "%s Review %02d.pptx"},
		"outlook":    {Name: "Microsoft Outlook", Path: programFiles + "Microsoft Office/root/Office16/OUTLOOK.EXE", Class: "rctrl_renwnd32", Title: "Inbox - Outlook"},
		"visio":      {Name: "Microsoft Visio", Path: programFiles + "Microsoft Office/root/Office16/VISIO.EXE", Class: "VISIOA", Title: "Visio Professional"},
		"msproject":  {Name: "Microsoft Project", Path: programFiles + "Microsoft Office/root/Office16/WINPROJ.EXE", Class: "JWinproj", Title: "Project Professional"},
		"primavera":  {Name: "Primavera P6", Path: programFiles + "Oracle/Primavera P6/PM.exe", Class: "TPMMain", Title: "Primavera P6 Professional"},
		"sapgui":     {Name: "SAP GUI", Path: programFiles + "SAP/FrontEnd/SAPGUI/saplogon.exe", Class: "SAP_FRONTEND_SESSION", Title: "SAP Easy Access"},
		"powerbi":    {Name: "Power BI Desktop", Path: programFiles + "Microsoft Power BI Desktop/bin/PBIDesktop.exe", Class: "PBIDesktop", Title: "Power BI Desktop"},
		"imanage":    {Name: "iManage Work", Path: programFiles + "iManage/Work/iwlnote.exe", Class: "iManage", Title: "iManage Work Desktop"},
		"acrobat":    {Name: "Adobe Acrobat", Template: "acrobat", Path: programFiles + "Adobe/Acrobat DC/Acrobat/Acrobat.exe", Class: "AcrobatSDIWindow", Title: "Adobe Acrobat Pro"},
		"foxit":      {Name: "Foxit PDF", Template: "foxit", Path: programFiles + "Foxit Software/Foxit PDF Reader/FoxitPDFReader.exe", Class: "classFoxitReader", Title: "Foxit PDF Reader"},
		"edge":       {Name: "Microsoft Edge", Template: "edge", Path: programFiles + "Microsoft/Edge/Application/msedge.exe", Class: "Chrome_WidgetWin_1", Title: "%s - Microsoft Edge", Pages: intranet},
		"chrome":     {Name: "Google Chrome", Template: "chrome", Path: programFiles + "Google/Chrome/Application/chrome.exe", Class: "Chrome_WidgetWin_1", Title: "%s - Google Chrome", Pages: intranet},
		"firefox":    {Name: "Firefox", Template: "firefox", Path: programFiles + "Mozilla Firefox/firefox.exe", Class: "MozillaWindowClass", Title: "%s — Mozilla Firefox", Pages: intranet},
		"rdp":        {Name: "Remote Desktop Connection", Template: "remote-desktop-connection", Path: "C:/Windows/System32/mstsc.exe", Class: "TscShellContainerClass", Title: "ts-01 - Remote Desktop Connection", Remote: true},

		// Programs are written, too.
		"code":         {Name: "Visual Studio Code", Template: "visual-studio-code", Path: programFiles + "Microsoft VS Code/Code.exe", Class: "Chrome_WidgetWin_1", Title: "%s - solver - Visual Studio Code", Pages: []string{"solver.py", "mesh.py", "README.md", "pipeline.yaml", "loads_test.py"}, Heavy: true},
		"visualstudio": {Name: "Visual Studio", Template: "visual-studio", Path: programFiles + "Microsoft Visual Studio/2022/Professional/Common7/IDE/devenv.exe", Class: "HwndWrapper", Title: "Plugins - Microsoft Visual Studio", Heavy: true},
		"intellij":     {Name: "IntelliJ IDEA and its family", Template: "intellij", Path: "/opt/idea/bin/idea64", Class: "jetbrains-idea", Title: "platform – Main.java", Heavy: true},
		"notepadpp":    {Name: "Notepad++", Template: "notepad-plus-plus", Path: programFiles + "Notepad++/notepad++.exe", Class: "Notepad++", Title: "new 1 - Notepad++"},

		// Seen, and metered by nobody.
		"teams":   {Name: "Teams", Path: programFiles + "WindowsApps/ms-teams.exe", Class: "TeamsWebView", Title: "Chat | Microsoft Teams"},
		"spotify": {Name: "Spotify", Path: "C:/Users/Public/AppData/Spotify/Spotify.exe", Class: "Chrome_WidgetWin_1", Title: "Spotify"},
		"zoom":    {Name: "Zoom", Path: "C:/Users/Public/AppData/Zoom/bin/Zoom.exe", Class: "ZPPTMainFrmWndClassEx", Title: "Zoom Workplace"},
		"rebar":   {Name: "Rebar Calculator", Path: "D:/Tools/RebarCalc/rebarcalc.exe", Class: "TForm1", Title: "Rebar Calculator 2.1"},
	}
}

// seen are the programs that are not metered.
func seen() []string { return []string{"teams", "spotify", "zoom", "rebar"} }

// Application is what of a program is metered.
type Application struct {
	// Template is what it is made from; empty: Own says all.
	Template string
	// Name and Documents hold where there is a template.
	Name      string
	Documents bool
	Own       *meteringv1.Application
}

// Applications are what the firm meters, by name.
func Applications() []Application {
	programs := Programs()
	for _, name := range seen() {
		delete(programs, name)
	}
	var all []Application
	for _, p := range sortedByName(programs) {
		a := Application{Template: p.Template, Name: p.Name, Documents: p.Documents}
		if a.Template == "" {
			a.Own = &meteringv1.Application{
				DisplayName: p.Name, ActivityGap: durationpb.New(30 * time.Second), Timeout: durationpb.New(30 * time.Minute),
				InstanceScope: policyv1.InstanceScope_INSTANCE_SCOPE_PROCESS_TREE, Documents: p.Documents,
				Rules: []*meteringv1.Rule{{Executable: executable(p.Path)}},
			}
			if p.Documents {
				a.Own.DocumentReduction = policyv1.DocumentReduction_DOCUMENT_REDUCTION_FILE_NAME
				a.Own.Rules[0].DocumentTitle = documentTitle(p.Title)
			}
		}
		all = append(all, a)
	}
	return all
}

func sortedByName(programs map[string]Program) []Program {
	return slices.SortedFunc(maps.Values(programs), func(a, b Program) int { return cmp.Compare(a.Name, b.Name) })
}

func executable(file string) string { return path.Base(file) }

// documentTitle is the rule that reads the document out of titles that are made so.
func documentTitle(title string) string {
	before, after, _ := strings.Cut(title, "%s")
	return "^" + regexp.QuoteMeta(before) + "(?P<document>.+)" + regexp.QuoteMeta(after) + "$"
}
