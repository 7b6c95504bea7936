import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { fromKysely } from '../../src/adapters/kysely.ts'
import { connect } from '../../src/cli/connect.ts'
import { createLocks } from '../../src/index.ts'

let folder: string

beforeEach(async () => {
  vi.doMock('better-sqlite3', () => {
    throw new Error('not installed')
  })
  folder = await mkdtemp(join(tmpdir(), 'rowlock-connect-'))
})
afterEach(() => rm(folder, { recursive: true }))

it('opens SQLite with node:sqlite when better-sqlite3 is missing, and locks work with it', async () => {
  const db = await connect(`sqlite:${folder}/app.sqlite`)
  await using locks = createLocks(fromKysely(db))
  expect(await locks.migrate()).not.toEqual([])
  expect(await locks.migrate()).toEqual([])
  const lease = await locks.acquire('a lock')
  expect(await locks.tryAcquire('a lock')).toBeNull()
  await db.transaction().execute((tx) => lease.guard(tx))
  expect(await locks.list()).toMatchObject([{ name: 'a lock', token: lease.token }])
  expect(await lease.release()).toBe(true)
  await locks.close()
  await db.destroy()
})
