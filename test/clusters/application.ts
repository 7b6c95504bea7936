import { vi } from 'vitest'
import { createLocks, type InstanceOptions, type Locks } from '../../src/index.ts'
import { type Connected, connectors } from '../adapters.ts'
import type { ClusterNode } from './node.ts'

/** An application that uses one node of a cluster, as it would from a machine of its own. */
export interface Application extends Connected {
  readonly node: ClusterNode
  readonly locks: Locks<unknown>
}

const DEFAULTS: InstanceOptions = { ttl: '1m', wait: '40s', statementTimeout: '15s' }

/** `database` has to be there. */
export function openApplication(
  connector: 'pg' | 'mysql2',
  node: ClusterNode,
  database: string,
  options: InstanceOptions = {},
): Application {
  const url = new URL(node.url)
  url.pathname = `/${database}`
  const connected = connectors[connector](url.href, { poolSize: 20 })
  const locks = createLocks(connected.adapter, { ...DEFAULTS, ...options })
  return {
    ...connected,
    node,
    locks,
    async close() {
      await locks.close()
      // Connections to servers that were killed end with complaints.
      await connected.close().catch(() => undefined)
    },
  }
}

/** Resolves when this application's node shows the lock as held: a node learns what others have committed a moment later. */
export async function untilSeen({ locks }: Application, name: string): Promise<void> {
  await vi.waitUntil(async () => (await locks.inspect(name)) !== null, { timeout: 20_000, interval: 2 })
}

/** The error of the database that led to this one. */
export function errnoOf(error: unknown): number | undefined {
  return ((error as { cause?: unknown }).cause as { errno?: number } | undefined)?.errno
}
