import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest'
import { createLocks, type Locks } from '../../src/index.ts'
import { type Connected, connectors } from '../adapters.ts'
import { openTransaction } from '../contract/harness.ts'
import { freshName } from '../engines.ts'
import { startMariadb, startMysql } from '../servers/mysql.ts'
import type { RunningServer } from '../servers/server.ts'

const SETTING = '--innodb-rollback-on-timeout=ON'
const starts: Partial<Record<string, () => Promise<RunningServer>>> = {
  mysql: () => startMysql(undefined, [SETTING]),
  mariadb: () => startMariadb(undefined, [SETTING]),
}
// A server in Docker, or somebody else's, has the setting that it was started with.
const privateServers = inject('servers').filter(({ name, pid }) => starts[name] !== undefined && pid !== null)

/** After a wait for a row that took too long, such a server rolls back the transaction and not the statement alone. */
describe.each(privateServers)('innodb_rollback_on_timeout on $name', { timeout: 60_000 }, ({ name: serverName }) => {
  let server: RunningServer
  let connected: Connected
  let locks: Locks<unknown>

  beforeAll(async () => {
    server = await starts[serverName]!()
    connected = connectors.mysql2(server.url)
    locks = createLocks(connected.adapter)
    await locks.migrate()
    await connected.sql('create table entries (name varchar(100))')
  })

  afterAll(async () => {
    await locks?.close()
    await connected?.close()
    await server?.stop()
  })

  const insert = (name: string, tx: unknown) => connected.sql(`insert into entries values ('${name}')`, tx)
  const entries = (name: string) => connected.sql(`select name from entries where name = '${name}'`)
  const holding = (name: string) => openTransaction(connected, (tx) => locks.within(tx).acquire(name))

  it('is on', async () => {
    const [row] = await connected.sql('select @@innodb_rollback_on_timeout as setting')
    expect(Number(row?.setting)).toBe(1)
  })

  it('a wait that is over leaves a transaction of which nothing is lost', async () => {
    const name = freshName()
    const commit = await holding(name)
    await connected.transaction(async (tx) => {
      await connected.sql('set session innodb_lock_wait_timeout = 1', tx)
      await insert(name, tx)
      // Longer than the session lets other statements wait.
      await expect(locks.within(tx).acquire(name, { wait: 1800 })).rejects.toMatchObject({ code: 'LOCK_TIMEOUT' })
      expect(await locks.within(tx).tryAcquire(name)).toBeNull()
      await insert(name, tx)
    })
    await commit()
    expect(await entries(name)).toHaveLength(2)
  })

  it('a wait that is served, too', async () => {
    const name = freshName()
    const commit = await holding(name)
    const waiting = connected.transaction(async (tx) => {
      await connected.sql('set session innodb_lock_wait_timeout = 1', tx)
      await insert(name, tx)
      await locks.within(tx).acquire(name, { wait: '20s' })
      await insert(name, tx)
    })
    await sleep(1500)
    await commit()
    await waiting
    expect(await entries(name)).toHaveLength(2)
  })

  it.runIf(serverName === 'mariadb')(
    'idle_transaction_timeout does not end a transaction that waits for a lease',
    async () => {
      await connected.sql('set global idle_transaction_timeout = 1')
      const application = connectors.mysql2(server.url)
      const inApplication = createLocks(application.adapter)
      try {
        const name = freshName()
        const lease = await locks.acquire(name)
        await application.transaction(async (tx) => {
          await application.sql('select 1', tx)
          const releasing = sleep(2500).then(() => lease.release())
          await inApplication.within(tx).acquire(name, { wait: '20s' })
          expect(await releasing).toBe(true)
        })
      } finally {
        await connected.sql('set global idle_transaction_timeout = 0')
        await inApplication.close()
        await application.close()
      }
    },
  )
})
