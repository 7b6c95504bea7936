import pg from 'pg'
import { afterAll, describe, expect, it } from 'vitest'
import { dedicatePg } from '../../src/adapters/pg-connection.ts'
import { createPgPool } from '../adapters.ts'
import { engines, freshName } from '../engines.ts'
import { ownConnectionSuite, scarcePoolSuite } from './own-connection.ts'
import { endProcesses, startScript } from './processes.ts'

afterAll(endProcesses)

const served = engines().filter(({ server }) => server !== undefined)

// Kysely lends one of its pool's.
for (const engine of served) ownConnectionSuite(engine, { beside: !engine.connector.startsWith('kysely') })

for (const engine of served) if (engine.connector.startsWith('kysely')) scarcePoolSuite(engine)

describe.each(served.filter(({ connector }) => connector === 'pg'))('on $name', (engine) => {
  it('statements on the connection go one after the other, as pg asks for', async () => {
    const open = await engine.open()
    let underWay = 0
    let most = 0
    class Counting extends pg.Client {
      override query(...values: unknown[]): never {
        most = Math.max(most, ++underWay)
        const answer = (super.query as (...values: unknown[]) => Promise<unknown>)(...values)
        return answer.finally(() => underWay--) as never
      }
    }
    const pool = createPgPool({ connectionString: open.url, Client: Counting })
    const connection = await dedicatePg(pool)
    const answers = Array.from({ length: 5 }, (_, index) =>
      connection.query({ text: 'select $1::int as index', values: [index] }),
    )
    const failing = connection.query({ text: 'select nothing', values: [] })
    await expect(failing).rejects.toThrow('nothing')
    expect((await Promise.all(answers)).map(({ rows }) => Number(rows[0]?.index))).toEqual([0, 1, 2, 3, 4])
    expect(most).toBe(1)
    await connection.close()
    await pool.end()
    await open.close()
  })
})

// What keeps a process alive is the driver, so one server of each kind will do.
const drivers = served.filter(({ server }) => server?.name !== 'postgres15' && server?.name !== 'mariadb')

describe.each(drivers)('with $name', { timeout: 90_000 }, (engine) => {
  it('a process ends by itself that ends its pool while it holds a lease and waits for another', async () => {
    const open = await engine.open()
    const others = await open.locks()
    const name = freshName()
    await others.acquire(`${name}:other`, { ttl: '5m' })
    const script = startScript('lifecycle-script.ts', 'end the pool', engine.connector, open.url, name)
    await script.untilLine('the pool has ended')
    expect(await script.ended).toBe(0)
    expect(script.errors()).toBe('')
    await open.close()
  })
})
