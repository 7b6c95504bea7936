import { execFile } from 'node:child_process'
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { EXPORTS } from '../public-interface.ts'

const root = fileURLToPath(new URL('../../', import.meta.url))
const programs = join(root, 'node_modules/.bin')
const run = promisify(execFile)

interface Packed {
  readonly filename: string
  readonly files: readonly { readonly path: string }[]
}

let folder: string
let tarball: string
let files: string[]
/** Where the package is installed, with what it depends on and nothing else. */
let project: string

const readJson = async (...path: string[]) => JSON.parse(await readFile(join(...path), 'utf8'))

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rowlock-package-'))
  const source = await copyOfRepository()
  // Builds first: prepack.
  const { stdout } = await run('npm', ['pack', '--json', '--silent', '--pack-destination', folder], { cwd: source })
  const [packed]: Packed[] = JSON.parse(stdout.slice(stdout.indexOf('[\n')))
  tarball = join(folder, packed!.filename)
  files = packed!.files.map(({ path }) => path)
  project = await installed()
}, 120_000)

afterAll(() => rm(folder, { recursive: true }))

/** So that nothing but what is under version control can get into the package, and nobody's dist is replaced. */
async function copyOfRepository(): Promise<string> {
  const copy = join(folder, 'source')
  await mkdir(copy)
  for (const entry of await readdir(root)) {
    if (!['.git', 'node_modules', 'dist', 'scratch'].includes(entry)) {
      await cp(join(root, entry), join(copy, entry), { recursive: true })
    }
  }
  await symlink(join(root, 'node_modules'), join(copy, 'node_modules'))
  await mkdir(join(copy, 'scratch'))
  await writeFile(join(copy, 'scratch/try.ts'), '')
  return copy
}

/** As npm would install it, without asking a registry. */
async function installed(): Promise<string> {
  const directory = join(folder, 'project')
  const home = join(directory, 'node_modules/rowlock')
  await mkdir(home, { recursive: true })
  await writeFile(join(directory, 'package.json'), '{ "type": "module", "dependencies": { "rowlock": "*" } }')
  await run('tar', ['-xzf', tarball, '-C', home, '--strip-components=1'])
  const { dependencies } = await readJson(home, 'package.json')
  for (const name of Object.keys(dependencies)) await provide(directory, name)
  // Makes the links of node_modules/.bin.
  await run('npm', ['rebuild', '--offline', '--ignore-scripts', 'rowlock'], { cwd: directory })
  return directory
}

async function provide(directory: string, name: string): Promise<void> {
  const link = join(directory, 'node_modules', name)
  await mkdir(dirname(link), { recursive: true })
  await symlink(join(root, 'node_modules', name), link)
}

describe('the packed tarball', () => {
  it('passes publint', async () => {
    const { stdout } = await run(join(programs, 'publint'), ['run', tarball, '--strict'])
    expect(stdout).toContain('All good!')
  })

  it('passes attw', async () => {
    await run(join(programs, 'attw'), [tarball, '--profile', 'esm-only', '--format', 'ascii'])
  })

  it('has what users need, and nothing else', () => {
    expect(files).toEqual(
      expect.arrayContaining([
        'README.md',
        'LICENSE',
        'CHANGELOG.md',
        'package.json',
        'dist/index.js',
        'dist/index.d.ts',
        'dist/cli/main.js',
        'migrations/postgres/0001_locks.sql',
        'migrations/mysql/0001_locks.sql',
        'migrations/sqlite/0001_locks.sql',
      ]),
    )
    const others = files.filter(
      (file) => !/^(dist|migrations|docs)\/|^(README|CHANGELOG)\.md$|^LICENSE$|^package\.json$/.test(file),
    )
    expect(others).toEqual([])
    expect(
      files.filter((file) => /(^|\/)(test|scratch)\//.test(file) || /\.tsx?$/.test(file.replace(/\.d\.ts$/, ''))),
    ).toEqual([])
  })
})

describe('the installed package', () => {
  /** Runs a module in the project that has the package. */
  async function node(program: string): Promise<string> {
    const { stdout } = await run(process.execPath, ['--input-type=module', '--eval', program], { cwd: project })
    return stdout
  }

  it('locks', async () => {
    const output = await node(`
      import { createLocks } from 'rowlock'
      import { fromMemory } from 'rowlock/memory'
      const locks = createLocks(fromMemory())
      await locks.migrate()
      console.log(await locks.run('a lock', {}, async (lease) => lease.isHeld() && (await locks.tryAcquire('a lock')) === null))
      await locks.close()
    `)
    expect(output).toBe('true\n')
  })

  it('loads every subpath without a driver', async () => {
    const { exports } = await readJson(project, 'node_modules/rowlock/package.json')
    const subpaths = Object.keys(exports).filter((subpath) => !subpath.endsWith('.json'))
    const output = await node(`
      const names = {}
      for (const subpath of ${JSON.stringify(subpaths)}) names[subpath] = Object.keys(await import('rowlock' + subpath.slice(1))).sort()
      console.log(JSON.stringify(names))
    `)
    expect(JSON.parse(output)).toEqual(valuesOf(EXPORTS))
  })

  it('exports the types of its public interface', async () => {
    const declarations = await readFile(join(project, 'node_modules/rowlock/dist/index.d.ts'), 'utf8')
    const names = [...declarations.matchAll(/[{,]\s*(?:type )?(\w+)/g)].map(([, name]) => name)
    expect(names.sort()).toEqual([...EXPORTS['.']!.types, ...EXPORTS['.']!.values].sort())
  })

  it('has types that a strict program compiles with', async () => {
    await provide(project, 'typescript')
    await writeFile(
      join(project, 'program.ts'),
      `import { createLocks, type Lease, LockLostError, type Locks } from 'rowlock'
       import { fromMemory, type MemoryTransaction } from 'rowlock/memory'
       const locks: Locks<MemoryTransaction> = createLocks(fromMemory(), { ttl: '30s' })
       const lease: Lease<MemoryTransaction> = await locks.acquire('a lock', { wait: 100 })
       const held: boolean = lease.isHeld()
       // @ts-expect-error
       await lease.guard('no transaction')
       console.log(held, LockLostError)
      `,
    )
    const strict = [
      '--strict',
      '--noEmit',
      '--module',
      'nodenext',
      '--target',
      'es2023',
      '--lib',
      'es2023,dom,esnext.disposable',
    ]
    await run(join(programs, 'tsc'), [...strict, '--skipLibCheck', 'false', 'program.ts'], { cwd: project })
  })

  it('has a command', async () => {
    const { stdout } = await run('npx', ['--no-install', 'rowlock', '--help'], { cwd: project })
    expect(stdout).toContain('Usage: rowlock')
    for (const command of ['migrate', 'migrations', 'demo']) expect(stdout).toMatch(new RegExp(`^ {2}${command} `, 'm'))
  })

  it('finds its migrations', async () => {
    const args = ['migrations', '--engine', 'sqlite', '--format', 'sql', '--out', 'sql']
    await run(join(project, 'node_modules/.bin/rowlock'), args, { cwd: project })
    expect(await readFile(join(project, 'sql/rowlock_0001_locks.sql'), 'utf8')).toContain(
      'create table "rowlock_locks"',
    )
  })

  it.each([
    ['postgres://localhost/none', 'pg'],
    ['mysql://localhost/none', 'mysql2'],
    ['sqlite:none.sqlite', 'better-sqlite3'],
  ])('says for %s how to install the missing %s', async (url, name) => {
    const migrating = run(join(project, 'node_modules/.bin/rowlock'), ['migrate', '--database-url', url], {
      cwd: project,
    })
    await expect(migrating).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringMatching(
        `^rowlock: this database needs the package ${name}: npm install ${name}[^\\n]*\\n$`,
      ),
    })
  })
})

function valuesOf(subpaths: typeof EXPORTS): Record<string, string[]> {
  return Object.fromEntries(Object.entries(subpaths).map(([subpath, { values }]) => [subpath, values]))
}
