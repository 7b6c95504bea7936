import mysql from 'mysql2/promise'
import { describe, expect, inject, it, onTestFinished } from 'vitest'
import { fromMysql2 } from '../../src/adapters/mysql2.ts'
import { createLocks } from '../../src/index.ts'
import { connectors } from '../adapters.ts'
import { createDatabase, query } from '../connect.ts'
import { freshName } from '../engines.ts'
import { startMariadb } from '../servers/mysql.ts'

describe.each(inject('servers').filter(({ name }) => name === 'postgres18'))('on $name that says it is', (server) => {
  it.each([
    ['CockroachDB', 'CockroachDB CCL v25.2.1 (x86_64-pc-linux-gnu, built 2025/06/16 18:50:15, go1.23.7)'],
    ['Aurora DSQL', 'PostgreSQL 16 (Aurora DSQL)'],
  ])('%s, locks are refused, and the promise that it breaks is told', async (engine, version) => {
    const database = await createDatabase(server)
    onTestFinished(() => database.drop())
    await query(database.url, 'create schema spoken')
    await query(
      database.url,
      `create function spoken.version() returns text language sql as $$ select '${version}'::text $$`,
    )
    const name = new URL(database.url).pathname.slice(1)
    await query(database.url, `alter database ${name} set search_path = spoken, pg_catalog`)
    const connected = connectors.pg(database.url)
    onTestFinished(() => connected.close())
    await using locks = createLocks(connected.adapter)
    const refused = { code: 'UNSUPPORTED', message: expect.stringContaining(engine) }
    await expect(locks.migrate()).rejects.toMatchObject(refused)
    for (const _ of ['first', 'again']) {
      const within = connected.transaction((tx) => locks.within(tx).acquire(freshName()))
      await expect(within).rejects.toMatchObject(refused)
      const trying = connected.transaction((tx) => locks.within(tx).tryAcquire(freshName()))
      await expect(trying).rejects.toMatchObject(refused)
    }
    await expect(locks.tryAcquire(freshName())).rejects.toMatchObject(refused)
    expect(await query(database.url, "select 1 from pg_tables where tablename like 'rowlock%'")).toEqual([])
  })
})

describe.each(inject('servers').filter(({ name, pid }) => name === 'mariadb' && pid !== null))(
  'on $name that says it is',
  { timeout: 60_000 },
  () => {
    it('TiDB, locks are refused, and the promise that it breaks is told', async () => {
      const server = await startMariadb(undefined, ['--version=8.0.11-TiDB-v8.5.1'])
      onTestFinished(() => server.stop())
      const pool = mysql.createPool({ uri: server.url })
      onTestFinished(() => pool.end())
      await using locks = createLocks(fromMysql2(pool))
      const refused = { code: 'UNSUPPORTED', message: expect.stringContaining('TiDB accepts SKIP LOCKED') }
      await expect(locks.migrate()).rejects.toMatchObject(refused)
      const tx = await pool.getConnection()
      await tx.beginTransaction()
      await expect(locks.within(tx).acquire(freshName())).rejects.toMatchObject(refused)
      await expect(locks.within(tx).tryAcquire(freshName())).rejects.toMatchObject(refused)
      await tx.rollback()
      tx.release()
      await expect(locks.tryAcquire(freshName())).rejects.toMatchObject(refused)
      expect(await query(server.url, "show tables like 'rowlock%'")).toEqual([])
    })
  },
)
