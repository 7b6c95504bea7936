import { engines, type TestEngine } from '../engines.ts'

/** One adapter for each engine and server: races are the engine's own. */
export const enginesOnce: readonly TestEngine[] = engines().filter(({ connector }) => !connector.startsWith('kysely'))

/** Those whose database several processes can use. */
export const sharedEngines: readonly TestEngine[] = enginesOnce.filter(({ shared }) => shared)

/** Those on a server. */
export const servedEngines: readonly TestEngine[] = enginesOnce.filter(({ server }) => server !== undefined)
