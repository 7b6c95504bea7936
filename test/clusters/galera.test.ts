import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import type { SqlAdapter } from '../../src/adapters/adapter.ts'
import { assess, readTopology, sessionRefusal } from '../../src/engines/topology.ts'
import { connect, query } from '../connect.ts'
import { freshName } from '../engines.ts'
import { wantedServers } from '../servers/index.ts'
import { errnoOf, openApplication, untilSeen } from './application.ts'
import { type GaleraCluster, startGalera } from './galera.ts'
import { type Three, testManyWriters } from './many-writers.ts'

const NOT_READY = 1047

describe.skipIf(!wantedServers().includes('mariadb'))('on Galera', { timeout: 90_000 }, () => {
  let cluster: GaleraCluster
  let applications: Three

  beforeAll(async () => {
    cluster = await startGalera()
    await query(cluster.nodes[0]!.url, 'create database locks')
    await query(cluster.nodes[0]!.url, 'create table locks.stalled (id int primary key, updates int not null)')
    await query(cluster.nodes[0]!.url, 'insert into locks.stalled values (1, 0)')
    await cluster.untilWhole()
    const [first, second, third] = cluster.nodes.map((node) => openApplication('mysql2', node, 'locks'))
    applications = [first!, second!, third!]
  }, 240_000)

  afterAll(async () => {
    await Promise.all((applications ?? []).map((application) => application.close()))
    await cluster?.stop()
  }, 60_000)

  it('all nodes may be asked at once to make the tables', async () => {
    const applied = await Promise.all(applications.map(({ locks }) => locks.migrate()))
    expect(new Set(applied.flat()).size).toBeGreaterThan(0)
    await cluster.untilWhole()
    for (const { locks } of applications) expect(await locks.migrate()).toEqual([])
  })

  it('it is recognised', async () => {
    const [{ adapter, transaction }] = applications
    const topology = await readTopology('mysql', (statement) => (adapter as SqlAdapter<unknown>).query(statement))
    expect(topology.writers).toBe('galera')
    expect(assess(topology)).toEqual({ refusal: null, warnings: [] })
    expect(sessionRefusal(topology)).toMatchObject({ code: 'UNSUPPORTED' })
    await transaction(async (tx) => {
      const run = async (text: string) => (adapter as SqlAdapter<unknown>).queryIn(tx, { text, values: [] })
      await run('set session wsrep_dirty_reads = on')
      const dirty = await readTopology('mysql', async ({ text }) => run(text))
      await run('set session wsrep_dirty_reads = off')
      expect(assess(dirty).refusal).toMatchObject({ code: 'UNSUPPORTED' })
    })
  })

  it("takeover: 'session' is refused", async () => {
    const [{ locks }] = applications
    await expect(locks.acquire(freshName(), { takeover: 'session' })).rejects.toMatchObject({ code: 'UNSUPPORTED' })
  })

  testManyWriters(() => applications, stall)

  it('a node cut off from the others grants nothing and commits nothing, and they go on', async () => {
    const [cutOff, other, another] = applications
    const name = freshName()
    const lease = await cutOff.locks.acquire(name, { ttl: '3s' })
    const forced = await cutOff.locks.acquire(freshName())
    await cutOff.sql('create table minority (id int primary key)')
    await cluster.untilWhole()

    const late = cutOff.transaction(async (tx) => {
      await forced.guard(tx)
      await cutOff.sql('insert into minority values (1)', tx)
      cluster.partition(cutOff.node)
      expect(await other.locks.forceRelease(forced.name, { wait: '40s' })).toBe(true)
    })
    await expect(late).rejects.toThrow()
    await vi.waitFor(
      async () => {
        const error = await cutOff.locks.tryAcquire(freshName()).catch((cause: unknown) => cause)
        expect(error).toMatchObject({ code: 'DATABASE' })
        expect(errnoOf(error)).toBe(NOT_READY)
      },
      { timeout: 40_000 },
    )
    const next = await other.locks.acquire(name)
    expect(lease.isHeld()).toBe(false)
    expect(next.token).toBeGreaterThan(lease.token)
    expect(await another.locks.tryAcquire(name)).toBe(null)

    cluster.heal()
    await cluster.untilWhole()
    // A connection that was open all the time may have to hear first that it was cut off.
    await vi.waitFor(async () => expect(await cutOff.sql('select * from minority')).toEqual([]), { timeout: 20_000 })
    expect(await cutOff.locks.tryAcquire(name)).toBe(null)
    const stale = cutOff.transaction((tx) => forced.guard(tx))
    await expect(stale).rejects.toMatchObject({ code: 'LOCK_LOST' })
    expect(await next.release()).toBe(true)
    expect((await cutOff.locks.acquire(name)).token).toBeGreaterThan(next.token)
  })

  it('a node that is stopped delays the others until they exclude it, and its holders lose their leases', async () => {
    const [other, , stopped] = applications
    const lease = await stopped.locks.acquire(freshName(), { ttl: '2s' })
    const elsewhere = await other.locks.acquire(freshName(), { ttl: '20s' })
    await untilSeen(other, lease.name)
    stopped.node.pause()
    try {
      const next = await other.locks.acquire(lease.name)
      expect(lease.isHeld()).toBe(false)
      expect(next.token).toBeGreaterThan(lease.token)
      await elsewhere.extend('20s')
    } finally {
      stopped.node.resume()
    }
    await cluster.untilWhole()
    expect(await stopped.locks.tryAcquire(lease.name)).toBe(null)
  })

  it('a lease outlives the node it was taken on, and that node gives higher tokens when it is back', async () => {
    const [other, killed] = applications
    const lease = await killed.locks.acquire(freshName())
    await killed.node.kill()
    await expect(killed.locks.tryAcquire(freshName())).rejects.toMatchObject({ code: 'DATABASE' })
    const moved = await other.locks.restore(JSON.parse(JSON.stringify(lease)))
    expect(moved.token).toBe(lease.token)
    await other.transaction((tx) => moved.guard(tx))
    expect(await moved.release()).toBe(true)
    const next = await other.locks.acquire(lease.name)
    expect(next.token).toBeGreaterThan(lease.token)
    await killed.node.start()
    await cluster.untilWhole()
    expect(await killed.locks.tryAcquire(lease.name)).toBe(null)
    expect(await next.release()).toBe(true)
    expect((await killed.locks.acquire(lease.name)).token).toBeGreaterThan(next.token)
  })

  it('leases and tokens outlive a crash of all nodes at once', async () => {
    const [first, second] = applications
    const leases = await Promise.all(Array.from({ length: 20 }, () => first.locks.acquire(freshName(), { ttl: '5m' })))
    await Promise.all(cluster.nodes.map((node) => node.kill()))
    await Promise.all(cluster.nodes.map((node) => node.start()))
    await cluster.untilWhole()
    for (const { name, token } of leases) {
      expect((await second.locks.inspect(name))?.token).toBe(token)
      expect(await second.locks.tryAcquire(name)).toBe(null)
      expect(await second.locks.forceRelease(name)).toBe(true)
      expect((await second.locks.acquire(name)).token).toBeGreaterThan(token)
    }
  })
})

/** What others have committed ends every transaction that is in its way, but not those that Galera knows nothing of. */
async function stall([{ node }, other]: Three): Promise<() => Promise<void>> {
  const connection = await connect(new URL('/locks', node.url).href)
  await connection.query('set session wsrep_on = off')
  await connection.query('begin')
  await connection.query('select * from stalled for update')
  await other.sql('update stalled set updates = updates + 1')
  return async () => {
    await connection.query('rollback')
    await connection.close()
  }
}
