import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { fromNodeSqlite, type NodeSqliteDatabase } from '../../src/adapters/node-sqlite.ts'
import { type Adapter, createLocks } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import { type Setup, useEverything } from './use.ts'

type Handle = NodeSqliteDatabase & { close(): void }

it.each([
  ['arrays', { returnArrays: true }, [[1]]],
  ['bigints', { readBigInts: true }, [{ one: 1n }]],
  ['arrays of bigints', { returnArrays: true, readBigInts: true }, [[1n]]],
])('node:sqlite may answer %s, and goes on to do so for what a caller runs under a guard', async (_, options, rows) => {
  const folder = await mkdtemp(join(tmpdir(), 'rowlock-'))
  const { DatabaseSync } = (await import('node:sqlite' as string)) as {
    DatabaseSync: new (path: string, options: object) => Handle
  }
  const database = new DatabaseSync(join(folder, 'locks.sqlite'), options)
  database.exec('pragma journal_mode = wal')
  const transaction: Setup['transaction'] = async (body) => {
    database.exec('begin immediate')
    try {
      const result = await body(database)
      database.exec('commit')
      return result
    } catch (error) {
      database.exec('rollback')
      throw error
    }
  }
  const adapter = fromNodeSqlite(database) as Adapter<unknown>
  await useEverything({ adapter, transaction, close: async () => undefined })
  const locks = createLocks(adapter)
  const lease = await locks.acquire(freshName())
  expect(await transaction((tx) => lease.guarded(tx, { text: 'select 1 as one', values: [] }))).toEqual(rows)
  await lease.release()
  await locks.close()
  database.close()
  await rm(folder, { recursive: true })
})
