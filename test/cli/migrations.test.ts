import * as fs from 'node:fs/promises'
import { mkdir, mkdtemp, readdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { FileMigrationProvider, type MigrationResultSet, Migrator, NO_MIGRATIONS } from 'kysely'
import { register, tsImport } from 'tsx/esm/api'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { connect } from '../../src/cli/connect.ts'
import { formatNames, type MigrationsOptions, writeMigrations } from '../../src/cli/migrations.ts'
import { createLocks } from '../../src/index.ts'
import { type DatabaseKind, databaseKinds, type EmptyDatabase } from './databases.ts'
import { rowlock } from './rowlock.ts'

const OURS = ['rowlock_locks', 'rowlock_migrations']

/** What a tool makes of the files in a directory. */
interface Applied {
  /** For tools that can go back. */
  undo?(): Promise<void>
}

type Tool = (database: EmptyDatabase, directory: string, kind: DatabaseKind) => Promise<Applied>

let project: string
let out: string
let unregister: () => Promise<void>

// Tools import what is in TypeScript by their own means; here it is tsx's.
beforeAll(() => {
  unregister = register()
})
afterAll(() => unregister())

beforeEach(async () => {
  project = await mkdtemp(join(tmpdir(), 'rowlock-migrations-'))
  await symlink(fileURLToPath(new URL('../../node_modules', import.meta.url)), join(project, 'node_modules'))
  await writeFile(join(project, 'package.json'), '{ "type": "module" }')
  out = join(project, 'migrations')
  await mkdir(out)
})
afterEach(() => rm(project, { recursive: true }))

const tools: Record<MigrationsOptions['format'], Tool> = {
  async sql(database, directory) {
    for (const file of await filesIn(directory)) await database.runScript(await read(directory, file))
    return {}
  },

  async prisma(database, directory) {
    for (const folder of await filesIn(directory)) {
      await database.runScript(await read(directory, folder, 'migration.sql'))
    }
    return {}
  },

  async drizzle({ connected }, directory) {
    for (const file of await filesIn(directory)) {
      const script = await read(directory, file)
      for (const statement of script.split('--> statement-breakpoint')) await connected.sql(statement)
    }
    return {}
  },

  async kysely(database, directory, kind) {
    const db = await connect(database.url)
    const migrator = new Migrator({ db, provider: new FileMigrationProvider({ fs, path, migrationFolder: directory }) })
    const succeed = ({ error, results = [] }: MigrationResultSet) => {
      expect(error).toBeUndefined()
      expect(results.map(({ status }) => status)).toEqual(Array(kind.migrations.length).fill('Success'))
    }
    succeed(await migrator.migrateToLatest())
    return {
      async undo() {
        succeed(await migrator.migrateTo(NO_MIGRATIONS))
        await db.destroy()
      },
    }
  },

  async knex({ connected }, directory) {
    const knex = { raw: (text: string) => connected.sql(text) }
    const load = createRequire(import.meta.url)
    const modules = (await filesIn(directory)).map((file) => load(join(directory, file)))
    for (const { up } of modules) await up(knex)
    return {
      async undo() {
        for (const { down } of modules.reverse()) await down(knex)
      },
    }
  },

  async typeorm({ connected }, directory) {
    const runner = { query: (text: string) => connected.sql(text) }
    const migrations = await Promise.all((await filesIn(directory)).map((file) => loadClass(join(directory, file))))
    // TypeORM takes the time from the end of the name.
    for (const { name } of migrations) expect(new Date(Number(name.slice(-13))).getFullYear()).toBe(2025)
    for (const migration of migrations) await migration.up(runner)
    return {
      async undo() {
        for (const migration of migrations.reverse()) await migration.down(runner)
      },
    }
  },
}

for (const kind of databaseKinds) {
  describe(`migrations for ${kind.name}`, () => {
    it.each(formatNames)('leave nothing for locks.migrate() to do when applied as %s', async (format) => {
      const database = await kind.create()
      await using locks = createLocks(database.connected.adapter)
      await writeMigrations({ engine: kind.engine, format, out })
      const { undo } = await tools[format](database, out, kind)
      expect(await database.tables()).toEqual(expect.arrayContaining(OURS))

      expect(await locks.migrate()).toEqual([])
      const lease = await locks.acquire('a lock')
      expect(await locks.list()).toMatchObject([{ name: 'a lock', token: lease.token }])
      expect(await lease.release()).toBe(true)

      await undo?.()
      const left = (await database.tables()).filter((table) => OURS.includes(table))
      expect(left).toEqual(undo === undefined ? OURS : [])
      await database.drop()
    })

    it.each(formatNames)('quote names that need it, as %s', async (format) => {
      const database = await kind.create()
      const naming = { tablePrefix: 'my-own `"x"', ...(kind.engine === 'postgres' && { schema: 'My schema.1' }) }
      await using locks = createLocks(database.connected.adapter, naming)
      await writeMigrations({ engine: kind.engine, format, out, ...naming })
      await tools[format](database, out, kind)
      expect(await locks.migrate()).toEqual([])
      await (await locks.acquire('a lock')).release()
      await database.drop()
    })

    it('name the tables as wanted', async () => {
      const database = await kind.create()
      const naming = { tablePrefix: 'my_', ...(kind.engine === 'postgres' && { schema: 'app' }) }
      await writeMigrations({ engine: kind.engine, format: 'sql', out, ...naming })
      await tools.sql(database, out, kind)
      expect(await database.tables()).toEqual(
        {
          postgres: [
            'app.my_gates',
            'app.my_locks',
            'app.my_marks',
            'app.my_migrations',
            'app.my_slots',
            'app.my_waits',
          ],
          mysql: ['my_gates', 'my_locks', 'my_marks', 'my_migrations', 'my_slots', 'my_waits'],
          sqlite: ['my_locks', 'my_marks', 'my_migrations', 'my_waits'],
        }[kind.engine === 'mariadb' ? 'mysql' : kind.engine],
      )
      await using locks = createLocks(database.connected.adapter, naming)
      expect(await locks.migrate()).toEqual([])
      expect(await locks.run('a lock', {}, () => 'ran')).toBe('ran')
      await database.drop()
    })
  })
}

describe('rowlock migrations', () => {
  it.each([
    ['sql', 'rowlock_0001_locks.sql', 'psql "$DATABASE_URL"'],
    ['kysely', '20250101000001_rowlock_0001_locks.ts', 'npx kysely migrate:latest'],
    ['knex', '20250101000001_rowlock_0001_locks.cjs', 'npx knex migrate:latest'],
    [
      'prisma',
      '20250101000001_rowlock_0001_locks/migration.sql',
      "external: ['public.rowlock_locks', 'public.rowlock_slots', 'public.rowlock_gates', 'public.rowlock_waits', 'public.rowlock_marks', 'public.rowlock_migrations']",
    ],
    ['drizzle', 'rowlock_0001_locks.sql', 'npx drizzle-kit generate --custom --name=rowlock_0001_locks'],
    ['typeorm', '1735689601000-rowlock-0001-locks.ts', 'npx typeorm migration:run'],
  ] as const)('names the files as %s wants them, and the next command', async (format, file, next) => {
    const written = await writeMigrations({ engine: 'postgres', format, out })
    expect(written.files[0]).toEqual({ path: join(out, file), state: 'written' })
    expect(written.next).toContain(next)
  })

  it('prints what it wrote, and the next command', async () => {
    const args = ['migrations', '--engine', 'sqlite', '--format', 'knex', '--out', 'new/folder']
    const { code, stdout, stderr } = await rowlock(args, { cwd: project })
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(/^Wrote new\/folder\/20250101000001_rowlock_0001_locks\.cjs\n/)
    expect(stdout).toMatch(/\n\nNext:\n {2}npx knex migrate:latest\n$/)
  })

  it('says on the command line what it can write', async () => {
    const { code, stderr } = await rowlock(['migrations', '--engine', 'oracle', '--format', 'sql', '--out', out])
    expect(code).toBe(1)
    expect(stderr).toContain('Allowed choices are postgres, mysql, mariadb, sqlite')
  })

  const migrations = { engine: 'mysql', format: 'kysely' } as const

  it('leaves files as they are when it is called again', async () => {
    const first = await writeMigrations({ ...migrations, out })
    const second = await writeMigrations({ ...migrations, out })
    expect(second.files).toEqual(first.files.map(({ path }) => ({ path, state: 'unchanged' })))
    expect(await filesIn(out)).toHaveLength(first.files.length)
  })

  it('overwrites no file that differs', async () => {
    await writeMigrations({ ...migrations, out })
    const [file] = await filesIn(out)
    await writeFile(join(out, file!), 'changed')
    await expect(writeMigrations({ ...migrations, out })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining('differs from what would be written; nothing was written'),
    })
    expect(await read(out, file!)).toBe('changed')
  })

  it('knows a file again that was given another number', async () => {
    await writeMigrations({ ...migrations, out })
    const [file] = await filesIn(out)
    await rename(join(out, file!), join(out, '042_rowlock_0001_locks.ts'))
    const { files } = await writeMigrations({ ...migrations, out })
    expect(files[0]).toEqual({ path: join(out, '042_rowlock_0001_locks.ts'), state: 'unchanged' })
  })

  it.each([
    ['kysely', '007_users.ts', '008_rowlock_0001_locks.ts'],
    ['kysely', '1793577600000_users.ts', '1793577600001_rowlock_0001_locks.ts'],
    ['knex', '20261120181500_users.js', '20261120181501_rowlock_0001_locks.cjs'],
    ['typeorm', '1793577600000-users.ts', '1793577600001-rowlock-0001-locks.ts'],
  ] as const)('comes, as %s, right after %s', async (format, last, file) => {
    await writeFile(join(out, last), '')
    const { files } = await writeMigrations({ engine: 'mysql', format, out })
    expect(files[0]?.path).toBe(join(out, file))
  })

  it('comes, as prisma, right after the last folder, but not after a baseline', async () => {
    await mkdir(join(out, '0_init'))
    await mkdir(join(out, '20261120181500_users'))
    const { files } = await writeMigrations({ engine: 'mysql', format: 'prisma', out })
    expect(files[0]?.path).toBe(join(out, '20261120181501_rowlock_0001_locks/migration.sql'))
  })

  it('refuses hostile names, and writes nothing', async () => {
    for (const naming of [{ tablePrefix: '`; drop' }, { tablePrefix: 'a\\b' }, { schema: 'a"$1' }]) {
      await expect(writeMigrations({ engine: 'postgres', format: 'kysely', out, ...naming })).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
      })
    }
    expect(await filesIn(out)).toEqual([])
  })

  it('says why it cannot write', async () => {
    await writeFile(join(out, 'file'), '')
    await expect(writeMigrations({ ...migrations, out: join(out, 'file') })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining('cannot write the migrations: ENOTDIR'),
    })
  })
})

async function filesIn(directory: string): Promise<string[]> {
  return (await readdir(directory)).sort()
}

function read(...segments: string[]): Promise<string> {
  return readFile(join(...segments), 'utf8')
}

interface TypeormMigration {
  readonly name: string
  up(runner: object): Promise<void>
  down(runner: object): Promise<void>
}

async function loadClass(file: string): Promise<TypeormMigration> {
  const exported: Record<string, new () => TypeormMigration> = await tsImport(pathToFileURL(file).href, import.meta.url)
  const [Migration] = Object.values(exported)
  return new Migration!()
}
