import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { nodeResolve } from '@rollup/plugin-node-resolve'
import { build } from 'esbuild'
import { rollup } from 'rollup'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { declarations, golden } from './declarations.ts'
import { Package, run, tool } from './packed.ts'
import { bundled, specifier, subpaths, tests, typed, values } from './programs.ts'

let rowlock: Package
/** Has rowlock, with what it depends on and nothing else. */
let project: string
/** Has drivers, too. */
let application: string

beforeAll(async () => {
  rowlock = await Package.pack()
  project = await rowlock.install('project', [], {
    'package.json': '{ "type": "module", "dependencies": { "rowlock": "*" } }',
  })
  // Makes the links of node_modules/.bin.
  await run('npm', ['rebuild', '--offline', '--ignore-scripts', 'rowlock'], project)
  const packages = [
    'better-sqlite3',
    'mysql2',
    'pg',
    'typescript',
    'vitest',
    '@jest/globals',
    '@types/better-sqlite3',
    '@types/node',
    '@types/pg',
  ]
  application = await rowlock.install('application', packages, { 'package.json': '{}' })
}, 120_000)

afterAll(() => rowlock.remove())

/** Runs a module in the project. */
const node = (program: string) => run(process.execPath, ['--input-type=module', '--eval', program], project)

describe('the packed tarball', () => {
  it('passes publint', async () => {
    expect(await run(tool('publint'), ['run', rowlock.tarball, '--strict'], project)).toContain('All good!')
  })

  it('passes attw', async () => {
    await run(tool('attw'), [rowlock.tarball, '--format', 'ascii'], project)
  })

  it('has what users need, and nothing else', () => {
    expect(rowlock.files).toEqual(
      expect.arrayContaining([
        'README.md',
        'LICENSE',
        'CHANGELOG.md',
        'package.json',
        'dist/LICENSES.txt',
        'dist/index.js',
        'dist/cli/main.js',
        'dist/node/index.cjs',
        'dist/node/index.d.cts',
        'dist/node/index.mjs',
        'dist/node/index.d.mts',
        'migrations/postgres/0001_locks.sql',
        'migrations/mysql/0001_locks.sql',
        'migrations/sqlite/0001_locks.sql',
      ]),
    )
    const others = rowlock.files.filter(
      (file) => !/^(dist|migrations|docs)\/|^(README|CHANGELOG)\.md$|^LICENSE$|^package\.json$/.test(file),
    )
    expect(others).toEqual([])
    const sources = /(^|\/)(test|scratch)\/|(?<!\.d)\.[cm]?tsx?$/
    expect(rowlock.files.filter((file) => sources.test(file))).toEqual([])
  })

  it('declares what test/package/public-api.d.ts says, which `npm run declarations` renews', async () => {
    expect(await declarations(join(project, 'node_modules/rowlock/dist'))).toBe(await readFile(golden, 'utf8'))
  })

  it('has the licenses of what is bundled', async () => {
    const licenses = await readFile(join(project, 'node_modules/rowlock/dist/LICENSES.txt'), 'utf8')
    for (const name of ['p-retry', 'is-network-error'])
      expect(licenses).toMatch(new RegExp(`^${name}\n\nMIT License`, 'm'))
  })
})

describe('the installed package', () => {
  it.each([
    ['imported', 'await import(name)'],
    ['required', 'require(name)'],
  ])('is %s by every subpath without a driver', async (_, load) => {
    const output = await node(`
      import { createRequire } from 'node:module'
      const require = createRequire(import.meta.url)
      const load = async (name) => ${load}
      const names = {}
      for (const subpath of ${JSON.stringify(subpaths)}) names[subpath] = Object.keys(await load('rowlock' + subpath.slice(1))).sort()
      console.log(JSON.stringify(names))
    `)
    expect(JSON.parse(output)).toEqual(values)
  })

  it('is one, imported and required', async () => {
    const output = await node(`
      import { createRequire } from 'node:module'
      import { createLocks, LockError, LockTimeoutError } from 'rowlock'
      import { fromMemory } from 'rowlock/memory'
      const require = createRequire(import.meta.url)
      const different = []
      for (const name of ${JSON.stringify(subpaths.map(specifier))}) {
        for (const [key, value] of Object.entries(require(name))) if ((await import(name))[key] !== value) different.push(key)
      }
      const imported = createLocks(require('rowlock/memory').fromMemory())
      const required = require('rowlock').createLocks(fromMemory())
      const held = []
      for (const locks of [imported, required]) {
        await locks.migrate()
        held.push(await locks.run('a lock', {}, async (lease) => lease.isHeld() && (await locks.tryAcquire('a lock')) === null))
        await locks.close()
      }
      console.log(JSON.stringify({ different, held, LockError: require('rowlock').LockError === LockError }))
    `)
    expect(JSON.parse(output)).toEqual({ different: [], held: [true, true], LockError: true })
  })

  it('works with other copies, of another folder and of a bundle', async () => {
    const other = await rowlock.install('other', [], { 'package.json': '{}' })
    const output = await node(`
      import { createRequire } from 'node:module'
      import * as memory from 'rowlock/memory'
      import * as imported from 'rowlock'
      const require = createRequire(${JSON.stringify(join(other, 'package.json'))})
      const bundled = async (file) => import(new URL('node_modules/rowlock/dist/' + file, import.meta.url).href)
      const copies = {
        installed: { ...imported, ...memory },
        other: { ...require('rowlock'), ...require('rowlock/memory') },
        bundled: { ...(await bundled('index.js')), ...(await bundled('adapters/memory.js')) },
      }
      const problems = []
      for (const [one, mine] of Object.entries(copies)) {
        for (const [another, theirs] of Object.entries(copies)) {
          const check = (what, holds) => holds || problems.push([one, another, what].join(' '))
          check('classes', (mine.LockError === theirs.LockError) === (one === another))
          const database = new theirs.MemoryDatabase()
          const locks = mine.createLocks(theirs.fromMemory(database))
          const rivals = theirs.createLocks(mine.fromMemory(database))
          const lease = await locks.acquire('a lock')
          const error = await rivals.acquire('a lock', { wait: 10 }).catch((error) => error)
          const classes = ['LockError', 'LockTimeoutError', 'DatabaseError'].filter((name) => error instanceof mine[name])
          check('error', classes.join() === 'LockError,LockTimeoutError')
          await database.transaction(async (tx) => {
            await lease.guard(tx)
            await rivals.within(tx).acquire('another lock')
            check('within', (await locks.tryAcquire('another lock')) === null)
          })
          await Promise.all([locks.close(), rivals.close()])
        }
      }
      console.log(JSON.stringify(problems))
    `)
    expect(JSON.parse(output)).toEqual([])
  })

  it('has nothing in its CommonJS that depends on where the file is, or that Jest refuses', async () => {
    const folder = join(project, 'node_modules/rowlock/dist/node')
    const files = (await readdir(folder, { recursive: true })).filter((file) => file.endsWith('.cjs'))
    expect(files.length).toBeGreaterThan(50)
    for (const file of files) {
      const text = await readFile(join(folder, file), 'utf8')
      expect(text, file).not.toMatch(/import\.meta|__filename|__dirname|\bawait import\(/)
    }
  })

  it('has a command', async () => {
    const stdout = await run('npx', ['--no-install', 'rowlock', '--help'], project)
    expect(stdout).toContain('Usage: rowlock')
    for (const command of ['migrate', 'migrations', 'demo']) expect(stdout).toMatch(new RegExp(`^ {2}${command} `, 'm'))
  })

  it('finds its migrations', async () => {
    const args = ['migrations', '--engine', 'sqlite', '--format', 'sql', '--out', 'sql']
    await run(join(project, 'node_modules/.bin/rowlock'), args, project)
    expect(await readFile(join(project, 'sql/rowlock_0001_locks.sql'), 'utf8')).toContain(
      'create table "rowlock_locks"',
    )
  })

  it('migrates by its command', async () => {
    const args = ['migrate', '--database-url', 'sqlite:application.sqlite']
    expect(await run(join(application, 'node_modules/rowlock/dist/cli/main.js'), args, application)).toBe(
      'Applied 0001_locks.\n',
    )
  })

  it.each([
    ['postgres://localhost/none', 'pg'],
    ['mysql://localhost/none', 'mysql2'],
    ['sqlite:none.sqlite', 'better-sqlite3'],
  ])('says for %s how to install the missing %s', async (url, name) => {
    const migrating = run(join(project, 'node_modules/.bin/rowlock'), ['migrate', '--database-url', url], project)
    await expect(migrating).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringMatching(
        `^rowlock: this database needs the package ${name}: npm install ${name}[^\\n]*\\n$`,
      ),
    })
  })
})

describe('a strict TypeScript program', () => {
  const compile = (args: readonly string[], cwd: string) => {
    const strict = [
      '--strict',
      '--skipLibCheck',
      'false',
      '--target',
      'es2023',
      '--lib',
      'es2023,dom,esnext.disposable',
    ]
    return run(tool('tsc'), [...strict, '--declaration', '--outDir', 'made', ...args], cwd)
  }

  it('compiles and runs, as a module and as CommonJS, with the resolution of node16', async () => {
    const files = { 'module.mts': typed.program, 'commonjs.cts': typed.program }
    const folder = await rowlock.folder('project/node16', [], files)
    await compile(['--module', 'node16', ...Object.keys(files)], folder)
    for (const file of ['module.mjs', 'commonjs.cjs']) {
      expect(await run(process.execPath, [join('made', file)], folder), file).toBe(typed.output)
    }
  })

  it('compiles and runs, as CommonJS, with the resolution of node10', async () => {
    const folder = await rowlock.folder('project/node10', [], { 'package.json': '{}', 'program.ts': typed.program })
    await compile(['--module', 'commonjs', '--moduleResolution', 'node10', 'program.ts'], folder)
    expect(await run(process.execPath, ['made/program.js'], folder)).toBe(typed.output)
  })

  it('compiles with the resolution of bundlers', async () => {
    const folder = await rowlock.folder('project/bundler', [], { 'program.ts': typed.program })
    await compile(['--module', 'esnext', '--moduleResolution', 'bundler', 'program.ts'], folder)
  })
})

describe('tests of an application', () => {
  const jest = async (name: string, file: string, text: string, config: object) => {
    const folder = await rowlock.folder(`application/${name}`, [], {
      [file]: text,
      'jest.config.json': JSON.stringify({ cacheDirectory: '<rootDir>/cache', ...config }),
    })
    // Jest tells its results on stderr.
    await run(tool('jest'), ['--ci', '--runInBand', '--silent'], folder)
  }

  it('pass in Jest', async () => {
    await jest('jest', 'locks.test.js', tests.commonJs, { transform: {} })
  })

  it('pass in ts-jest', async () => {
    await jest('ts-jest', 'locks.test.ts', tests.typeScript, {
      transform: { '\\.ts$': [tool('../ts-jest'), { tsconfig: { strict: true, target: 'es2023', types: ['node'] } }] },
    })
  })

  it('pass in Vitest', async () => {
    const folder = await rowlock.folder('application/vitest', [], { 'locks.test.mjs': tests.module })
    await run(tool('vitest'), ['run', '--root', '.'], folder)
  })
})

describe('an application that is bundled', () => {
  it.each(['cjs', 'esm'] as const)('by esbuild as %s has one rowlock, which migrates', async (format) => {
    const folder = await rowlock.folder(`esbuild-${format}`, ['better-sqlite3'], {})
    const file = join(folder, format === 'cjs' ? 'program.cjs' : 'program.mjs')
    await build({
      stdin: { contents: bundled.program, resolveDir: application },
      bundle: true,
      platform: 'node',
      format,
      external: ['better-sqlite3'],
      outfile: file,
      logLevel: 'silent',
    })
    expect(await run(process.execPath, [file], folder)).toBe(bundled.output)
  })

  it('by Rollup migrates', async () => {
    const folder = await rowlock.folder('rollup', ['better-sqlite3', 'kysely', 'ms'], {})
    const input = join(application, 'program.js')
    await writeFile(input, bundled.moduleProgram)
    const made = await rollup({
      input,
      external: ['better-sqlite3', 'kysely', 'ms', /^node:/],
      plugins: [nodeResolve()],
    })
    await made.write({ file: join(folder, 'program.mjs') })
    expect(await run(process.execPath, ['program.mjs'], folder)).toBe(bundled.output)
  })
})
