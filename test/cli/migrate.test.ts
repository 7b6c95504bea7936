import { existsSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { migrate } from '../../src/cli/migrate.ts'
import { createLocks, type InstanceOptions } from '../../src/index.ts'
import { databaseKinds, type EmptyDatabase } from './databases.ts'
import { rowlock } from './rowlock.ts'

describe('rowlock migrate', () => {
  for (const kind of databaseKinds) {
    describe(`on ${kind.name}`, () => {
      let database: EmptyDatabase
      const migrateInProcess = () => rowlock(['migrate', '--database-url', database.url])

      async function canLock(options: InstanceOptions = {}): Promise<boolean> {
        await using locks = createLocks(database.connected.adapter, options)
        const lease = await locks.acquire('a lock')
        return lease.release()
      }

      beforeAll(async () => {
        database = await kind.create()
      })
      afterAll(() => database.drop())

      it('makes the tables once when eight processes start it at once', async () => {
        const outcomes = await Promise.all(Array.from({ length: 8 }, migrateInProcess))
        expect(outcomes.filter(({ code, stderr }) => code !== 0 || stderr !== '')).toEqual([])
        expect(outcomes.map(({ stdout }) => stdout).sort()).toEqual([
          `Applied ${kind.migrations.join(', ')}.\n`,
          ...Array(7).fill('Up to date: nothing to apply.\n'),
        ])
        expect(await database.tables()).toEqual(expect.arrayContaining(['rowlock_locks', 'rowlock_migrations']))
        expect(
          await database.connected.sql(
            "select name from rowlock_migrations where name not like 'protocol %' order by name",
          ),
        ).toEqual(kind.migrations.map((name) => ({ name })))
        expect(await canLock()).toBe(true)
      })

      it('leaves a migrated database as it is', async () => {
        await using locks = createLocks(database.connected.adapter)
        await locks.acquire('kept', { renew: false })
        expect(await migrateInProcess()).toEqual({ code: 0, stdout: 'Up to date: nothing to apply.\n', stderr: '' })
        expect(await locks.inspect('kept')).toMatchObject({ name: 'kept' })
      })

      it('names the tables with a chosen prefix', async () => {
        expect(await migrate({ databaseUrl: database.url, tablePrefix: 'My_' })).toEqual(kind.migrations)
        expect(await database.tables()).toEqual(expect.arrayContaining(['My_locks', 'My_migrations']))
        expect(await canLock({ tablePrefix: 'My_' })).toBe(true)
      })

      it.runIf(kind.engine === 'postgres')('puts them into a chosen schema, which it makes if need be', async () => {
        await database.connected.sql('create schema there_before')
        for (const schema of ['made_by_rowlock', 'there_before']) {
          expect(await migrate({ databaseUrl: database.url, schema })).toEqual(kind.migrations)
          expect(await database.tables()).toContain(`${schema}.rowlock_locks`)
          expect(await canLock({ schema })).toBe(true)
        }
      })

      it.runIf(kind.engine !== 'postgres')('refuses a schema', async () => {
        await expect(migrate({ databaseUrl: database.url, schema: 'app' })).rejects.toMatchObject({
          code: 'INVALID_ARGUMENT',
          message: expect.stringContaining('schema is an option for PostgreSQL'),
        })
      })

      it('refuses hostile names, and does nothing', async () => {
        const before = await database.tables()
        for (const tablePrefix of ['x"; drop table t; --', 'a?b', "a'b", 'a b ', '', '-a', 'x'.repeat(41)]) {
          await expect(migrate({ databaseUrl: database.url, tablePrefix })).rejects.toMatchObject({
            code: 'INVALID_ARGUMENT',
            message: expect.stringContaining(JSON.stringify(tablePrefix)),
          })
        }
        expect(await database.tables()).toEqual(before)
      })
    })
  }
})

describe('what rowlock says on the command line', () => {
  it('is one line when rowlock refuses', async () => {
    expect(await rowlock(['migrate', '--database-url', 'not-made.sqlite', '--table-prefix', 'a?b'])).toEqual({
      code: 1,
      stdout: '',
      stderr: expect.stringMatching(/^rowlock: tablePrefix must be [^\n]*\n$/),
    })
    expect(existsSync('not-made.sqlite')).toBe(false)
  })

  it('is one line when the database does not answer', async () => {
    const url = 'postgres://user:secret@127.0.0.1:1/none'
    const { code, stderr } = await rowlock(['migrate', '--database-url', url])
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: expect.stringMatching(/^rowlock: [^\n]*ECONNREFUSED[^\n]*\n$/),
    })
    expect(stderr).not.toContain('secret')
  })

  it('is how to call it when an option is missing', async () => {
    const { code, stderr } = await rowlock(['migrate'])
    expect(code).toBe(1)
    expect(stderr).toContain("required option '--database-url <url>' not specified")
    expect(stderr).toContain('Usage: rowlock migrate')
  })
})
