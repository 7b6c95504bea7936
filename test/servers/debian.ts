import { constants } from 'node:fs'
import { access, readdir } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { step } from './cache.ts'
import { runCommand } from './command.ts'

const directories = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/bin', '/sbin', '/bin']

/** The path of an executable, looked for on the PATH and where Debian keeps servers; null if there is none. */
export async function findProgram(program: string): Promise<string | null> {
  for (const directory of directories) {
    const path = join(directory, program)
    if (await isExecutable(path)) return path
  }
  return null
}

export async function isExecutable(path: string): Promise<boolean> {
  return await access(path, constants.X_OK).then(
    () => true,
    () => false,
  )
}

let lastInstallation: Promise<unknown> = Promise.resolve()

/** Installs Debian packages, one call after the other, since apt lets only one process in. */
export async function installPackages(...packages: string[]): Promise<void> {
  const installation = lastInstallation.then(() => install(packages))
  lastInstallation = installation.catch(() => {})
  await installation
}

async function install(packages: string[]): Promise<void> {
  const list = packages.join(' ')
  if (process.getuid?.() !== 0) throw new Error(`it needs Debian's ${list}, which only root can install`)
  if ((await findProgram('apt-get')) === null) throw new Error(`it needs Debian's ${list}, but there is no apt-get`)
  await step(`Debian's ${list}`, async () => {
    if (!(await hasPackageLists())) await apt('update')
    try {
      await apt('install', '--no-install-recommends', ...packages)
    } catch {
      // The usual reason is a list that names a version the mirror no longer has.
      await apt('update')
      await apt('install', '--no-install-recommends', ...packages)
    }
  })
}

async function hasPackageLists(): Promise<boolean> {
  const files = await readdir('/var/lib/apt/lists').catch(() => [])
  return files.some((file) => file.includes('_Packages'))
}

async function apt(...args: string[]): Promise<void> {
  await runCommand({
    program: 'apt-get',
    args: ['-q', '-y', '-o', 'DPkg::Lock::Timeout=300', ...args],
    // Without systemd, run level 1 keeps a package from starting its own server.
    env: { DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' },
  })
}
