<#
.SYNOPSIS
Tests vcbmount on a real Windows machine, driver included. Run as administrator.

.DESCRIPTION
Installs WinFsp when it is missing, mounts the demo VM on a drive letter, in a folder and under a share's name,
compares the hash of every file with what was written on Linux, and checks that nothing is left behind.
On Linux, the VM is made by:  VCB_DEMO_OUT=demo make demo

.PARAMETER Exe
vcbmount.exe.

.PARAMETER Demo
The folder with web01\ and expected.sha256.
#>
param(
    [Parameter(Mandatory)][string]$Exe,
    [Parameter(Mandatory)][string]$Demo
)
$ErrorActionPreference = 'Stop'
$Exe = (Resolve-Path $Exe).Path
$Demo = (Resolve-Path $Demo).Path
$script:failed = 0
$script:passed = 0

function Check([string]$What, [bool]$Holds) {
    if ($Holds) { $script:passed++ } else { $script:failed++; Write-Output "FAILED: $What" }
}

$winfsp = 'HKLM:\SOFTWARE\WOW6432Node\WinFsp'
if (-not (Test-Path $winfsp) -and (Get-Command winget -ErrorAction SilentlyContinue)) {
    & winget install --id WinFsp.WinFsp --silent --accept-package-agreements --accept-source-agreements
}
if (-not (Test-Path $winfsp) -and (Get-Command choco -ErrorAction SilentlyContinue)) {
    & choco install winfsp -y --no-progress
}
if (-not (Test-Path $winfsp)) { throw 'WinFsp is not installed: https://winfsp.dev' }

# Hash and path from the volume's root, as sha256sum has written them.
$expected = @{}
foreach ($line in [IO.File]::ReadAllLines((Join-Path $Demo 'expected.sha256'))) {
    if ($line -match '^\\?([0-9a-f]{64})  \./(.*)$') { $expected[$Matches[2].Replace('/', '\')] = $Matches[1] }
}
Write-Output "$($expected.Count) files are expected"

function Compare-Files([string]$Root) {
    $found = 0
    foreach ($file in Get-ChildItem -LiteralPath $Root -Recurse -File -Force) {
        $name = $file.FullName.Substring($Root.Length).TrimStart('\')
        $hash = (Get-FileHash -LiteralPath $file.FullName -Algorithm SHA256).Hash.ToLowerInvariant()
        Check "$name is as it was written" ($expected[$name] -eq $hash)
        $found++
    }
    Check "$Root holds $found of $($expected.Count) files" ($found -eq $expected.Count)
}

function Test-Mount([string]$At) {
    Write-Output "mounting on $At"
    $said = & $Exe mount --vm (Join-Path $Demo 'web01') --at $At
    Check "mount on $At exits with 0" ($LASTEXITCODE -eq 0)
    Check 'it prints the path alone' ($said -eq $At)
    # Not by Join-Path, which asks for the drive before PowerShell knows of it.
    $volume = "$At\digits\1"
    Compare-Files $volume
    if ($At -match '^[A-Z]:$') { Check "the label is the volume's own" ("$(& cmd.exe /c "vol $At")" -match 'Web 01') }
    $upper = "$volume\USERS\ADA\DOCUMENTS\LATER.TXT"
    Check 'names are found in any case' (Test-Path -LiteralPath $upper)
    $refused = $false
    try { [IO.File]::WriteAllText("$volume\new.txt", 'x') } catch { $refused = $true }
    Check 'writing is refused' $refused
    Check 'a missing file is missing' (-not (Test-Path -LiteralPath "$volume\none"))
    & robocopy $volume (Join-Path $env:TEMP 'vcbmount-copy') /E /COPY:DAT /R:0 /W:0 /NFL /NDL /NJH | Out-Null
    Check 'robocopy copies it' ($LASTEXITCODE -lt 8)
    Remove-Item -Recurse -Force (Join-Path $env:TEMP 'vcbmount-copy') -ErrorAction SilentlyContinue
    & $Exe umount $At
    Check "umount of $At exits with 0" ($LASTEXITCODE -eq 0)
    Check 'nothing is mounted any more' (-not (Test-Path "$At\"))
    Check 'no session is left' (-not (& $Exe sessions))
}

Test-Mount 'V:'
# Not in the temporary folder, whose path may be a short name that is printed as the long one.
Test-Mount "$env:SystemDrive\vcbmount-test"
Test-Mount '\\vcbmount\web01'

Write-Output 'killing a server'
& $Exe mount --vm (Join-Path $Demo 'web01') --at V: | Out-Null
Get-Process vcbmount | Stop-Process -Force
Start-Sleep 3
Check 'the drive goes with its process' (-not (Test-Path 'V:\'))
& $Exe cleanup
Check 'cleanup exits with 0' ($LASTEXITCODE -eq 0)
Check 'no session is left' (-not (& $Exe sessions))

Write-Output 'images'
$images = & $Exe mount --vm (Join-Path $Demo 'web01') --mode fullvm --at V:
Check 'mount as images exits with 0' ($LASTEXITCODE -eq 0)
$raw = Join-Path $env:TEMP 'vcbmount.raw'
& $Exe export (Join-Path $Demo 'web01') --to $raw --force --quiet
$served = Get-ChildItem 'V:\' -Filter '*-flat.vmdk' | Select-Object -First 1
Check 'the image is the exported disk' ((Get-FileHash $served.FullName).Hash -eq (Get-FileHash $raw).Hash)
Remove-Item $raw
& $Exe umount V:

Write-Output "$script:passed passed, $script:failed failed"
exit [int]($script:failed -gt 0)
