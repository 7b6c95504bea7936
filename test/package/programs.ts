import { EXPORTS } from '../public-interface.ts'

/** Programs that use the package as applications do. */

export const subpaths = Object.keys(EXPORTS)
export const specifier = (subpath: string) => `rowlock${subpath.slice(1)}`
export const values = Object.fromEntries(subpaths.map((subpath) => [subpath, EXPORTS[subpath]!.values]))

const allValues = Object.values(values).flat()

/** Imports all that there is. Its declarations have to name what public functions return. */
export const typed = {
  program: `
    ${subpaths.map((subpath) => `import { ${named(subpath)} } from '${specifier(subpath)}'`).join('\n')}
    export const adapter = (pool: PgPool) => fromPg(pool)
    export const locks = createLocks(fromMemory(), { ttl: '30s' })
    export const state = () => locks.inspect('a lock')
    const given: Locks<MemoryTransaction> = locks
    // @ts-expect-error It is no transaction.
    export const guard = (lease: Lease<MemoryTransaction>) => lease.guard('no transaction')
    async function main(): Promise<void> {
      const lease: Lease<MemoryTransaction> = await given.acquire('a lock', { wait: 100 })
      const error = await given.acquire('a lock', { wait: 10 }).catch((error: unknown) => error)
      const all: unknown[] = [${allValues.join(', ')}]
      console.log(lease.isHeld(), all.every((each) => typeof each === 'function'), error instanceof LockTimeoutError && error.lock)
      await locks.close()
    }
    void main()
  `,
  output: 'true true a lock\n',
}

function named(subpath: string): string {
  const types = EXPORTS[subpath]!.types.map((name) => `type ${name}`)
  return [...values[subpath]!, ...types].join(', ')
}

const imports = subpaths.map((subpath, index) => `import * as module${index} from '${specifier(subpath)}'`).join('\n')
const importedModules = subpaths.map((subpath, index) => `'${subpath}': module${index}`).join(', ')
const requiredModules = subpaths.map((subpath) => `'${subpath}': require('${specifier(subpath)}')`).join(', ')

const body = `
  test('loads every subpath', () => {
    const names = Object.entries(modules).map(([subpath, module]) => [subpath, Object.keys(module).sort()])
    expect(Object.fromEntries(names)).toEqual(${JSON.stringify(values)})
  })

  test('locks', async () => {
    const { createLocks, LockError, LockTimeoutError } = modules['.']
    const locks = createLocks(modules['./better-sqlite3'].fromBetterSqlite3(new Database(':memory:')))
    expect(await locks.migrate()).toEqual(['0001_locks'])
    const lease = await locks.acquire('a lock')
    const refused = locks.acquire('a lock', { wait: 10 })
    await expect(refused).rejects.toThrow(LockTimeoutError)
    await expect(refused).rejects.toBeInstanceOf(LockError)
    expect(lease.isHeld()).toBe(true)
    await locks.close()
  })

  test('knows an error of Node', async () => {
    const pool = new pg.Pool({ host: '127.0.0.1', port: 1 })
    const locks = modules['.'].createLocks(modules['./pg'].fromPg(pool))
    await expect(locks.migrate()).rejects.toMatchObject({ failure: 'connection' })
  })

  test('loads a driver for a connection beside the pool', async () => {
    const pool = mysql2.createPool({ host: '127.0.0.1', port: 1 })
    const { dedicate } = modules['./mysql2'].fromMysql2(pool)
    await expect(dedicate?.()).rejects.toMatchObject({ code: 'ECONNREFUSED' })
    await pool.end()
  })
`

export const tests = {
  commonJs: `
    const Database = require('better-sqlite3')
    const mysql2 = require('mysql2/promise')
    const pg = require('pg')
    const modules = { ${requiredModules} }
    ${body}
  `,
  typeScript: `
    import { expect, test } from '@jest/globals'
    import Database = require('better-sqlite3')
    import mysql2 = require('mysql2/promise')
    import pg = require('pg')
    ${imports}
    const modules = { ${importedModules} }
    ${body}
  `,
  module: `
    import { createRequire } from 'node:module'
    import Database from 'better-sqlite3'
    import { Kysely, SqliteDialect } from 'kysely'
    import mysql2 from 'mysql2/promise'
    import pg from 'pg'
    import { expect, test } from 'vitest'
    ${imports}
    const modules = { ${importedModules} }
    ${body}

    test('has one rowlock, imported and required', () => {
      const require = createRequire(import.meta.url)
      expect(require('rowlock').LockError).toBe(modules['.'].LockError)
    })

    test('guards transactions of the Kysely of modules, which is not the one that rowlock loads', async () => {
      const database = new Database(':memory:')
      const db = new Kysely({ dialect: new SqliteDialect({ database }) })
      const locks = modules['.'].createLocks(modules['./kysely'].fromKysely(db))
      await locks.migrate()
      const lease = await locks.acquire('a lock')
      await db.transaction().execute((tx) => lease.guard(tx))
      await locks.close()
      await db.destroy()
    })
  `,
}

const locking = `
  import Database from 'better-sqlite3'
  import { createLocks, LockError } from 'rowlock'
  import { fromBetterSqlite3 } from 'rowlock/better-sqlite3'
  async function main() {
    const locks = createLocks(fromBetterSqlite3(new Database(':memory:')))
    const applied = await locks.migrate()
    const held = await locks.run('a lock', {}, (lease) => lease.isHeld())
    await locks.close()
    console.log(applied.join(), held, same(LockError))
  }
  main()
`

export const bundled = {
  program: `${locking} const same = (LockError) => require('rowlock').LockError === LockError`,
  /** Without the \`require\` that only some bundlers know in a module. */
  moduleProgram: `${locking} const same = () => true`,
  output: '0001_locks true true\n',
}
