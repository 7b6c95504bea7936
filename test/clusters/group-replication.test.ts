import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import type { SqlAdapter } from '../../src/adapters/adapter.ts'
import { assess, readTopology, sessionRefusal } from '../../src/engines/topology.ts'
import { connect, query } from '../connect.ts'
import { freshName } from '../engines.ts'
import { wantedServers } from '../servers/index.ts'
import { type Application, errnoOf, openApplication } from './application.ts'
import { type GroupMode, type ReplicationGroup, startGroupReplication } from './group-replication.ts'
import { type Three, testManyWriters } from './many-writers.ts'

const READ_ONLY = 1290

describe.skipIf(!wantedServers().includes('mysql'))('on MySQL Group Replication', { timeout: 90_000 }, () => {
  describe('with one primary', () => {
    const { group, applications, primary } = useGroup('single-primary')
    const secondary = async () => {
      const serving = await primary()
      return applications().find((application) => application !== serving)!
    }

    it('it is as good as one server', async () => {
      const topology = await topologyOf(await primary())
      expect(topology.writers).toBe('one server')
      expect(assess(topology)).toEqual({ refusal: null, warnings: [] })
      expect(sessionRefusal(topology)).toBe(null)
    })

    it('a secondary grants nothing, and says that it is read-only', async () => {
      const error = await (await secondary()).locks.tryAcquire(freshName()).catch((cause: unknown) => cause)
      expect(error).toMatchObject({ code: 'DATABASE' })
      expect(errnoOf(error)).toBe(READ_ONLY)
    })

    it('leases and tokens outlive the primary', async () => {
      const former = await primary()
      const leases = await Promise.all(
        Array.from({ length: 20 }, () => former.locks.acquire(freshName(), { ttl: '5m', renew: false })),
      )
      await former.node.kill()
      const next = await vi.waitFor(
        async () => {
          const elected = await primary()
          expect(elected).not.toBe(former)
          return elected
        },
        { timeout: 60_000 },
      )
      for (const lease of leases) {
        expect(await next.locks.tryAcquire(lease.name)).toBe(null)
        const moved = await next.locks.restore(JSON.parse(JSON.stringify(lease)))
        expect(moved.token).toBe(lease.token)
        await next.transaction((tx) => moved.guard(tx))
        expect(await moved.release()).toBe(true)
        expect((await next.locks.acquire(lease.name)).token).toBeGreaterThan(lease.token)
      }
      await former.node.start()
      await group().untilWhole()
    })

    it('a primary without its majority grants nothing until that is back', async () => {
      const alone = await primary()
      const others = applications().filter((application) => application !== alone)
      const name = freshName()
      for (const { node } of others) node.pause()
      const impatient = openApplication('mysql2', alone.node, 'locks', { statementTimeout: '1s' })
      try {
        await expect(impatient.locks.tryAcquire(name)).rejects.toMatchObject({ code: 'DATABASE' })
      } finally {
        for (const { node } of others) node.resume()
        await impatient.close()
      }
      await group().untilWhole()
      // What came too late was given back.
      const lease = await (await primary()).locks.acquire(name)
      expect(await lease.release()).toBe(true)
    })
  })

  describe('with many primaries', () => {
    const { applications } = useGroup('multi-primary')

    it('it is recognised', async () => {
      const topology = await topologyOf(applications()[0])
      expect(topology.writers).toBe('group')
      expect(assess(topology)).toEqual({ refusal: null, warnings: [] })
      expect(sessionRefusal(topology)).toMatchObject({ code: 'UNSUPPORTED' })
    })

    it("takeover: 'session' is refused", async () => {
      const attempt = applications()[0].locks.acquire(freshName(), { takeover: 'session' })
      await expect(attempt).rejects.toMatchObject({ code: 'UNSUPPORTED' })
    })

    testManyWriters(applications, stall)
  })
})

function useGroup(mode: GroupMode) {
  let group: ReplicationGroup
  let applications: Three

  beforeAll(async () => {
    group = await startGroupReplication({ mode })
    const [writing] = await group.primaries()
    await query(writing!.url, 'create database locks')
    await query(writing!.url, 'create table locks.stalled (id int primary key, updates int not null)')
    await query(writing!.url, 'insert into locks.stalled values (1, 0)')
    await group.untilWhole()
    const [first, second, third] = group.nodes.map((node) => openApplication('mysql2', node, 'locks'))
    applications = [first!, second!, third!]
    await applications.find(({ node }) => node === writing)!.locks.migrate()
    await group.untilWhole()
  }, 240_000)

  afterAll(async () => {
    await Promise.all((applications ?? []).map((application) => application.close()))
    await group?.stop()
  }, 60_000)

  return {
    group: () => group,
    applications: () => applications,
    /** The application of the node that takes writes. */
    async primary(): Promise<Application> {
      const [node] = await group.primaries()
      const found = applications.find((application) => application.node === node)
      if (found === undefined) throw new Error('no node takes writes')
      return found
    },
  }
}

function topologyOf({ adapter }: Application) {
  return readTopology('mysql', (statement) => (adapter as SqlAdapter<unknown>).query(statement))
}

/** What others have committed ends every transaction that is in its way, but waits for a table that somebody has locked. */
async function stall([{ node }, other]: Three): Promise<() => Promise<void>> {
  const connection = await connect(new URL('/locks', node.url).href)
  await connection.query('lock tables stalled read')
  await other.sql('update stalled set updates = updates + 1')
  return async () => {
    await connection.query('unlock tables')
    await connection.close()
  }
}
