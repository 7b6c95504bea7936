import { setTimeout as sleep } from 'node:timers/promises'
import mysql from 'mysql2/promise'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { fromMysql2 } from '../../src/adapters/mysql2.ts'
import { type Adapter, createLocks, type Locks } from '../../src/index.ts'
import { freshName, type OpenEngine } from '../engines.ts'
import { startContest, violations } from './contest.ts'
import { servedEngines } from './one-per-engine.ts'

const INSTANCES = 4
const CLIENTS = 8

describe.each(servedEngines)('on $name', (engine) => {
  describe.each(['repeatable read', 'serializable'] as const)('where sessions are at %s by default', (isolation) => {
    let open: OpenEngine
    const closing: (() => Promise<unknown>)[] = []

    beforeAll(async () => {
      open = await engine.open()
      if (engine.engine !== 'postgres') return
      const database = new URL(open.url).pathname.slice(1)
      await open.connected.sql(`alter database ${database} set default_transaction_isolation = '${isolation}'`)
    })

    afterAll(async () => {
      for (const close of closing.reverse()) await close()
      await open.close()
    })

    const connect = async (): Promise<{ locks: Locks<unknown>; level: () => Promise<unknown> }> => {
      if (engine.engine === 'postgres') {
        const connected = await open.connect()
        const locks = createLocks(connected.adapter)
        closing.push(() => locks.close())
        return {
          locks,
          level: async () => (await connected.sql('show transaction_isolation'))[0]?.transaction_isolation,
        }
      }
      const pool = mysql.createPool({ uri: open.url, connectionLimit: 5 })
      pool.pool.on('connection', (connection) =>
        connection.query(`set session transaction isolation level ${isolation}`),
      )
      const locks = createLocks(fromMysql2(pool) as Adapter<unknown>)
      closing.push(
        () => pool.end(),
        () => locks.close(),
      )
      // Known as tx_isolation to MariaDB 10.11, which has no other name for it.
      const variable = engine.server?.flavour === 'mariadb' ? '@@tx_isolation' : '@@transaction_isolation'
      const level = async () => {
        const [rows] = await pool.query(`select ${variable} as level`)
        return String((rows as { level: string }[])[0]?.level)
          .toLowerCase()
          .replace('-', ' ')
      }
      return { locks, level }
    }

    it('many clients of one lock exclude each other, and none of them fails', async () => {
      const name = freshName()
      const instances = await Promise.all(Array.from({ length: INSTANCES }, connect))
      for (const { level } of instances) expect(await level()).toBe(isolation)
      const contests = instances.map(({ locks }) => startContest(locks, name, CLIENTS))
      await sleep(1000)
      const reports = await Promise.all(contests.map((contest) => contest.stop()))
      expect(violations(reports)).toEqual([])
      const tokens = reports.flatMap((report) => report.tokens)
      expect(tokens.length).toBeGreaterThan(INSTANCES)
      expect(new Set(tokens).size).toBe(tokens.length)
    })

    it('of many who ask at once for a lock that never was, one gets it', async () => {
      const instances = await Promise.all(Array.from({ length: INSTANCES }, connect))
      for (let round = 0; round < 10; round++) {
        const name = freshName()
        const attempts = instances.flatMap(({ locks }) => [locks.tryAcquire(name), locks.tryAcquire(name)])
        expect((await Promise.all(attempts)).filter((lease) => lease !== null)).toHaveLength(1)
      }
    })

    it('waiters are served one after the other', async () => {
      const name = freshName()
      const instances = await Promise.all(Array.from({ length: INSTANCES }, connect))
      let running = 0
      const turns = Array.from({ length: 40 }, (_, index) =>
        instances[index % INSTANCES]!.locks.run(name, { wait: '20s' }, async () => {
          expect(++running).toBe(1)
          await sleep(1)
          running--
        }),
      )
      await Promise.all(turns)
    })
  })
})
